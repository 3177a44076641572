"""What a run says at its end."""

from __future__ import annotations

from fleet_control.report import Seen, columns, errors, table

NODE = {"host": "worker1", "worker": "a", "unit": "shop-worker@a.service", "node": "a@worker1"}


def test_columns() -> None:
    assert columns([("HOST", "STATE"), ("worker1", "ok"), ("w", "")]) == [
        "HOST     STATE",
        "worker1  ok",
        "w",
    ]


def test_errors_name_host_unit_journal_and_the_next_command() -> None:
    seen = {
        "control1": Seen(
            {
                "errors": {
                    "shop-beat.service": "it is failed (failed)\nline 1\nline 2",
                    "web": "answered “500”",
                }
            }
        ),
        "worker1": Seen({"errors": {}}, {"shop-worker@a.service": "line 3"}),
    }
    probe = {
        "bad": [{**NODE, "errors": ["no answer within 30 s", "wrong queue"]}],
        "errors": ["a@worker1: no answer within 30 s", "app.tasks.x is registered nowhere"],
    }
    assert errors("shop", seen, probe) == [
        (
            "control1: shop-beat.service: it is failed (failed)\n"
            "  The last lines of its journal:\n"
            "    line 1\n"
            "    line 2\n"
            "  Next, on control1: journalctl -u shop-beat.service -n 100"
        ),
        "control1: web: answered “500”\n  Next, on control1: journalctl -u shop-web.service -n 100",
        (
            "worker1: shop-worker@a.service: no answer within 30 s; wrong queue\n"
            "  The last lines of its journal:\n"
            "    line 3\n"
            "  Next, on worker1: journalctl -u shop-worker@a.service -n 100"
        ),
        "workers: app.tasks.x is registered nowhere",
    ]


def test_no_errors() -> None:
    assert errors("shop", {"a": Seen({})}, {}) == []
    assert errors("shop", {"a": Seen({"errors": {}})}, {"bad": [], "errors": []}) == []


def test_a_node_on_a_host_that_was_not_looked_at() -> None:
    assert "worker1: " in errors("shop", {}, {"bad": [{**NODE, "errors": ["x"]}]})[0]


def test_the_table() -> None:
    seen = {
        "worker1": Seen(
            {
                "units": {
                    "shop-worker@a.service": {"ActiveState": "active", "StatusText": "consuming"}
                }
            }
        ),
        "control1": Seen(
            {
                "units": {"nginx.service": {"ActiveState": "active"}},
                "schedule": [
                    {
                        "name": "hourly",
                        "task": "app.x",
                        "queue": None,
                        "schedule": "0 * * * *",
                        "due": "12:00",
                    },
                    {
                        "name": "off",
                        "task": "app.y",
                        "queue": "q",
                        "schedule": "never",
                        "due": None,
                    },
                ],
            }
        ),
    }
    probe = {
        "nodes": {
            "b@worker1": {"state": "busy", "slots": 4, "queues": None, "seconds": None},
            "a@worker1": {"state": "ok", "queues": ["q", "r"], "seconds": 0.0123},
            "c@worker1": {"state": "silent", "queues": ["q"]},
        }
    }
    assert table(seen, probe, ["Flower: https://control1:5555/"]).splitlines() == [
        "HOST      SERVICE                STATE",
        "worker1   shop-worker@a.service  active: consuming",
        "control1  nginx.service          active",
        "",
        "WORKER     QUEUES  CANARY",
        "a@worker1  q, r    12 ms",
        "b@worker1          busy: all 4 slots run tasks",
        "c@worker1  q       silent",
        "",
        "SCHEDULED  TASK   QUEUE  WHEN       NEXT DUE",
        "hourly     app.x         0 * * * *  12:00",
        "off        app.y  q      never",
        "",
        "Flower: https://control1:5555/",
    ]


def test_a_table_of_redis_alone() -> None:
    seen = {"redis1": Seen({"units": {"redis@shop-broker.service": {"ActiveState": "active"}}})}
    assert len(table(seen, {}, []).splitlines()) == 2
