"""The report at the end of a run."""

from __future__ import annotations

from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.report import (
    HostFindings,
    columns,
    errors,
    remarks,
    table,
)

from celery_fleet.beat.standby import STANDING_BY

NODE = {"host": "worker1", "worker": "a", "unit": "shop-worker@a.service", "node": "a@worker1"}


def test_columns() -> None:
    assert columns([("HOST", "STATE"), ("worker1", "ok"), ("w", "")]) == [
        "HOST     STATE",
        "worker1  ok",
        "w",
    ]


def test_errors_name_host_unit_journal_and_the_next_command() -> None:
    seen = {
        "control1": HostFindings(
            {
                "errors": {
                    "shop-beat.service": "it is failed (failed)\nline 1\nline 2",
                    "web": "answered “500”",
                }
            }
        ),
        "worker1": HostFindings({"errors": {}}, {"shop-worker@a.service": "line 3"}),
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
    assert errors("shop", {"a": HostFindings({})}, {}) == []
    assert errors("shop", {"a": HostFindings({"errors": {}})}, {"bad": [], "errors": []}) == []


def test_a_node_on_a_host_that_was_not_looked_at() -> None:
    assert "worker1: " in errors("shop", {}, {"bad": [{**NODE, "errors": ["x"]}]})[0]


def test_the_table() -> None:
    seen = {
        "worker1": HostFindings(
            {
                "units": {
                    "shop-worker@a.service": {"ActiveState": "active", "StatusText": "consuming"}
                }
            }
        ),
        "control1": HostFindings(
            {
                "units": {"nginx.service": {"ActiveState": "active"}},
                "zone": "America/Guayaquil",
                "schedule": [
                    {
                        "name": "hourly",
                        "source": "code",
                        "local": "07:00",
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
        "SCHEDULED  IN    TASK   QUEUE  WHEN       NEXT DUE, America/Guayaquil  NEXT DUE, UTC",
        "hourly     code  app.x         0 * * * *  07:00                        12:00",
        "off              app.y  q      never",
        "",
        "Flower: https://control1:5555/",
    ]


def test_of_several_beats_the_report_shows_the_schedule_of_the_one_that_sends() -> None:
    entry = {"name": "e", "source": "inventory", "task": "t", "queue": "q", "schedule": "every 5 s"}

    def beat(text: str, due: str) -> HostFindings:
        units = {"shop-beat.service": {"ActiveState": "active", "StatusText": text}}
        schedule = [entry | {"due": due}]
        return HostFindings({"units": units, "zone": "UTC", "schedule": schedule})

    seen = {"a": beat(STANDING_BY, "10:00"), "b": beat("1 entry", "12:00")}
    shown = table(seen, {}, [])
    assert shown.count("SCHEDULED") == 1
    assert "12:00" in shown
    # While another beat takes over, all of them stand by.
    assert table({"a": seen["a"], "c": seen["a"]}, {}, []).count("SCHEDULED") == 1


def test_a_schedule_in_utc_has_its_due_times_once() -> None:
    entry = {"name": "e", "source": "inventory", "task": "t", "queue": "q", "schedule": "every 5 s"}
    seen = {
        "control1": HostFindings(
            {"zone": "UTC", "schedule": [entry | {"due": "12:00", "local": "12:00"}]}
        )
    }
    assert table(seen, {}, []).splitlines()[-2:] == [
        "SCHEDULED  IN         TASK  QUEUE  WHEN       NEXT DUE, UTC",
        "e          inventory  t     q      every 5 s  12:00",
    ]


def test_of_thousands_of_entries_a_hundred_are_shown() -> None:
    entry = {"source": "database", "task": "t", "queue": "q", "schedule": "every 5 s", "due": ""}
    entries = [entry | {"name": f"e{number}"} for number in range(10_000)]
    serving = {"units": {"shop-beat.service": {}}, "schedule": entries}
    lines = table({"control1": HostFindings(serving)}, {}, []).splitlines()
    assert len(lines) == 2 + 1 + 1 + 100 + 1
    assert lines[-1].startswith("and 9900 more: celery-fleet schedule")


def test_a_schedule_that_is_too_large_to_read_is_only_a_note() -> None:
    serving = {"units": {"shop-beat.service": {}}, "schedule": None, "code": ["theirs"]}
    seen = {"control1": HostFindings(serving)}
    schedule = {"ours": {"task": "t"}}
    assert errors("shop", seen, {}, schedule) == []
    notes = remarks("shop", seen, schedule)
    assert notes == ["control1: beat holds too many entries to show or check them here"]
    assert table(seen, {}, notes).splitlines()[-1] == notes[0]


def held(names: list[str], **more: object) -> dict[str, HostFindings]:
    serving = {"units": {"shop-beat.service": {}}, "schedule": [{"name": name} for name in names]}
    return {"control1": HostFindings({**serving, **more})}


def test_an_entry_that_beat_has_not_loaded_is_an_error() -> None:
    schedule = {"ours": {"task": "t"}, "theirs-off": {"enabled": False}}
    code = ["theirs", "theirs-off"]
    assert errors("shop", held(["ours", "theirs"], code=code), {}, schedule) == []
    (error,) = errors("shop", held(["theirs-off"], code=code), {}, schedule)
    assert error == (
        "control1: beat: it has not loaded ours, so these are not sent\n"
        "  Next, on control1: systemctl restart shop-beat.service; journalctl -u shop-beat.service -n 100"
    )
    # A beat that is down is already reported, and other hosts have no entries.
    assert len(errors("shop", held([], errors={"shop-beat.service": "x"}), {}, schedule)) == 1
    assert errors("shop", {"worker1": HostFindings({"units": {}})}, {}, schedule) == []


def test_an_entry_of_the_code_that_beat_has_not_loaded_is_only_a_note() -> None:
    schedule = {"ours": {"task": "t"}, "theirs-off": {"enabled": False}}
    code = ["theirs", "theirs-off"]
    without = held(["ours"], code=code)
    assert errors("shop", without, {}, schedule) == []
    (remark,) = remarks("shop", without, schedule)
    assert remark.startswith("control1: beat does not hold theirs, which the release's code had")
    assert remarks("shop", without, schedule, "replace") == []
    assert "theirs, theirs-off, which" in remarks("shop", held([], code=code), {}, "refuse")[0]
    assert remarks("shop", held(["ours", "theirs"], code=code), schedule) == []
    assert remarks("shop", {"worker1": HostFindings({"units": {}})}, schedule) == []


def test_the_table_of_a_host_with_only_redis() -> None:
    seen = {
        "redis1": HostFindings({"units": {"redis@shop-broker.service": {"ActiveState": "active"}}})
    }
    assert len(table(seen, {}, []).splitlines()) == 2
