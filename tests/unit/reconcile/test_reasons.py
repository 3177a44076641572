"""Differences in a process's inputs, in the inventory's words, without the value of a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.reasons import (
    ARGUMENTS,
    DELIVERY,
    DROP_IN,
    explain,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import delivery, workers

SECRET = "s3cr3t-hush"


def command(**options: Any) -> str:
    return workers.worker_command("app.celery", "a@h1", {"queues": ["a"], **options})


def setting(name: str, before: Any, after: Any) -> list[str] | None:
    """Return how a setting differs; None means that it is new or removed."""
    texts = [None if value is None else json.dumps(value) for value in (before, after)]
    return explain(f"settings {name}", *texts)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"concurrency": 4}, {"concurrency": 3}, ["concurrency 4 → 3"]),
        ({}, {"max_tasks_per_child": 50}, ["max_tasks_per_child → 50"]),
        ({"optimization": "fair"}, {}, ["optimization fair removed"]),
        ({"queues": ["a"]}, {"queues": ["a", "mail"]}, ["queues a → a,mail"]),
        ({}, {"task_events": True, "loglevel": "DEBUG"}, ["loglevel INFO → DEBUG", "task_events → true"]),
        ({"concurrency": 4}, {"autoscale": {"min": 2, "max": 8, "wait": "30s"}}, ["concurrency 4 → 2"]),
    ],
)  # fmt: skip
def test_options_of_a_worker_are_named(
    before: dict[str, Any], after: dict[str, Any], words: list[str]
) -> None:
    assert explain(ARGUMENTS, command(**before), command(**after)) == words


def test_the_bounds_of_autoscaling_are_named() -> None:
    def explained(before: str | None, after: str | None) -> list[str] | None:
        return explain("environment CELERY_FLEET_AUTOSCALE", before, after)

    some = '{"max": 8, "min": 2, "wait": 30.0}'
    more = '{"max": 9, "min": 2, "wait": 300.0}'
    assert explained(None, some) == ["autoscale → 2 to 8, wait 30 s"]
    assert explained(some, more) == ["autoscale 2 to 8, wait 30 s → 2 to 9, wait 300 s"]
    assert explained(some, None) == ["autoscale 2 to 8, wait 30 s removed"]
    assert explained(some, "edited by hand") is None


def test_options_of_beat_are_named() -> None:
    line = "python -m celery -A app.celery beat --loglevel=INFO --max-interval="
    assert explain(ARGUMENTS, f"{line}5", f"{line}10") == ["max_loop_interval 5 → 10"]


@pytest.mark.parametrize("line", [f"gunicorn -e KEY={SECRET}{{}} shop.wsgi", "python '{}", "{}"])
def test_another_command_line_is_not_shown(line: str) -> None:
    assert explain(ARGUMENTS, line.format(1), line.format(2)) is None


BASE = """# Written by Celery Fleet
[Service]
ExecStop=/usr/bin/python3 -S -I /usr/lib/celery-fleet/1/celery_fleet/system/stop.py $MAINPID --drain 300
TimeoutStopSec=330s
# watchdog_sec
WatchdogSec=30
# memory_deny_write_execute
MemoryDenyWriteExecute=yes
# proc_subset_pid
ProcSubset=pid
"""
MEMORY = f"{BASE}# memory_max\nMemoryMax="
MOUNTS = (
    f'{BASE}# requires_mounts_for\nExecStartPre=+/usr/bin/systemd-run "--property=RequiresMountsFor=\\"/srv/my {{}}\\""'
    " /usr/bin/true\n[Unit]\n# requires_mounts_for\nAfter=srv.mount\n# requires_mounts_for\nPartOf=srv.mount\n"
)
PATHS = f'{BASE}# read_write_paths\nReadWritePaths="/a"\n'


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (BASE, f"{MEMORY}512M\n", ["memory_max → 512M"]),
        (f"{MEMORY}512M\n", f"{MEMORY}1G\n", ["memory_max 512M → 1G"]),
        (f"{BASE}# cpu_quota\nCPUQuota=50%\n", BASE, ["cpu_quota 50% removed"]),
        (BASE, BASE.replace("Sec=30", "Sec=60"), ["watchdog_sec 30 → 60"]),
        (BASE, BASE.replace("=pid", "=all"), ["proc_subset_pid true → false"]),
        (BASE, BASE.replace("--drain 300", "--drain 600").replace("330s", "630s"), ["drain_timeout 300 → 600"]),
        (PATHS, f'{PATHS}# read_write_paths\nReadWritePaths="/b"\n', ["read_write_paths /a → /a /b"]),
        (MOUNTS.format("a"), MOUNTS.format("b"), ["requires_mounts_for /srv/my a → /srv/my b"]),
        (BASE, MOUNTS.format("a"), ["requires_mounts_for → /srv/my a"]),
        # This follows from the runtime, which is another input.
        (BASE, BASE.replace("/1/", "/2/"), []),
        (BASE.replace("/system/", "/"), BASE, []),
        (f"{BASE}Environment=P={SECRET}\n", f"{BASE}Nice=1\n",
         [f"{DROP_IN}: Environment removed", f"{DROP_IN}: Nice new"]),
        (f"{BASE}# password\nEnvironment=P={SECRET}\n", BASE, [f"{DROP_IN}: Environment removed"]),
        (f"{BASE}# environment\nEnvironment=P={SECRET}\n", BASE, [f"{DROP_IN}: Environment removed"]),
        (f"{BASE}Environment=P={SECRET}\n", f"{BASE}Environment=P={SECRET}2\n", [f"{DROP_IN}: Environment changed"]),
    ],
)  # fmt: skip
def test_directives_of_drop_ins_are_named(before: str, after: str, words: list[str]) -> None:
    assert explain(DROP_IN, before, after) == words


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("task_time_limit", 5, 7, ["task_time_limit 5 → 7"]),
        ("task_time_limit", None, 7, ["task_time_limit → 7"]),
        ("task_acks_late", False, None, ["task_acks_late false removed"]),
        ("task_acks_late", False, True, ["task_acks_late false → true"]),
        ("timezone", "UTC", "Europe/Rome", ["timezone UTC → Europe/Rome"]),
        ("broker_transport_options", {"visibility_timeout": 1, "x": {"y": 1}}, {"visibility_timeout": 2},
         ["broker_transport_options.visibility_timeout 1 → 2", "broker_transport_options.x.y 1 removed"]),
        ("task_routes", {"a.*": {"queue": "a"}, "b": "b", "d": {"queue": "d"}},
         {"a.*": {"queue": "b"}, "b": "c", "c": {"queue": "x"}},
         ["route a.*: queue a → b", "route b: queue b → c", "route d removed", "route c new (queue x)"]),
        ("delivery", None, delivery.document("at_least_once"), ["delivery → at_least_once"]),
        ("delivery", delivery.document("at_least_once"),
         delivery.document("at_least_once", {"poison_deaths": 5}), ["max_crashes_per_task 3 → 5"]),
        ("metrics", None, {}, ["metrics new"]),
        ("metrics", {"file": "/m"}, None, ["metrics removed"]),
    ],
)  # fmt: skip
def test_settings_are_named(name: str, before: Any, after: Any, words: list[str]) -> None:
    assert setting(name, before, after) == words


def entry(**fields: Any) -> dict[str, Any]:
    return {"task": "a.b", "crontab": {"minute": 0, "hour": 2}, **fields}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (entry(), entry(crontab={"minute": 0, "hour": 3}), "entry nightly: crontab 0 2 → 0 3"),
        (entry(), entry(crontab={"minute": [0, 30], "hour": 3, "day_of_week": "mon"}),
         "entry nightly: crontab 0 2 * * * → 0,30 3 * * mon"),
        (entry(crontab=None, interval=300), entry(crontab=None, interval=600.0),
         "entry nightly: every 300 s → every 600 s"),
        (entry(), entry(crontab=None, interval=60), "entry nightly: crontab 0 2 → every 60 s"),
        (None, entry(), "entry nightly new (crontab 0 2)"),
        (entry(), None, "entry nightly removed"),
        (entry(), {"enabled": False}, "entry nightly: enabled true → false"),
        (entry(queue="a"), entry(queue="b", task="c.d"), "entry nightly: task a.b → c.d, queue a → b"),
        (entry(), entry(args=[SECRET], kwargs={"key": SECRET}, options={"headers": SECRET}),
         "entry nightly: args new, kwargs new, options new"),
        (entry(args=[1]), entry(args=[2]), "entry nightly: args changed"),
    ],
)  # fmt: skip
def test_entries_of_the_schedule_are_named(before: Any, after: Any, words: str) -> None:
    was, now = ({} if one is None else {"nightly": one} for one in (before, after))
    assert sorted(setting("beat_schedule", was, now) or []) == [words]


def test_a_workers_own_delivery_is_named() -> None:
    def other(**options: Any) -> str:
        return delivery.variable(delivery.override("inherit", None, options))[delivery.VARIABLE]

    once, most = other(delivery="at_least_once"), other(delivery="at_most_once")
    assert explain(DELIVERY, None, once) == ["delivery → at_least_once"]
    assert explain(DELIVERY, once, most) == ["delivery at_least_once → at_most_once"]
    assert explain(DELIVERY, once, None) == ["delivery at_least_once removed"]


@pytest.mark.parametrize(
    ("label", "before", "after"),
    [
        ("settings broker_url", f'"rediss://u:{SECRET}@h/0"', '"rediss://u:x@h/0"'),
        ("settings redis_password", "1234", "5678"),
        ("settings redis_password", "null", "5678"),
        ("settings security_key", f'"{SECRET}"', "null"),
        ("settings some_text", f'"{SECRET}"', '"x"'),
        ("settings imports", f'["{SECRET}"]', "[]"),
        ("settings broker_transport_options", f'{{"password": 1234, "a": ["{SECRET}"], "b": "{SECRET}"}}', "{}"),
        ("settings broker_transport_options", "{}", '{"sentinel_kwargs": {"password": 1234}}'),
        ("settings task_routes", "{}", f'{{"x": {{"priority": "{SECRET}"}}}}'),
        ("settings task_routes", '{"x": {}}', f'{{"x": {{"headers": "{SECRET}"}}}}'),
        ("settings broken", "{", SECRET),
        ("environment TOKEN", SECRET, "x"),
        ("drop-in mine.conf", f"Environment=P={SECRET}", "x"),
        ("user worker", f"on >{SECRET}", "on"),
        ("file host.key", SECRET, "x"),
    ],
)  # fmt: skip
def test_no_value_of_a_secret_is_shown(label: str, before: str, after: str) -> None:
    for one, other in ((before, after), (after, before), (before, None), (None, before)):
        words = " ".join(explain(label, one, other) or [])
        assert SECRET not in words
        assert not {"1234", "5678"} & set(words.split())
