"""Redis stops or hangs for longer than a watchdog waits; the fleet recovers by itself, and systemd kills nothing."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from support import database, resp, tasks, units, web
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.inventory import Fleet

TRIGGER = "/api/v1/admin/discounts/trigger-recompute"
OUTAGE = 40.0  # seconds; longer than the watchdog of a worker or of beat, which waits 30 s
HEALED = 60.0

WATCHDOG = re.compile(r"Watchdog timeout|result 'watchdog'")

pytestmark = [
    pytest.mark.usefixtures("nothing_refused"),
    pytest.mark.stage(3),
    pytest.mark.unit("{celery_app_name}-worker@*", "celery_workers"),
    pytest.mark.unit("{celery_app_name}-beat.service", "celery_beat"),
]


def consumers(fleet: Fleet) -> list[tuple[str, str]]:
    """Return host and unit of every worker and of beat."""
    return [
        (name, unit)
        for name in fleet.hosts("fleet")
        for unit in fleet.expected[name]["services"]
        if "-worker@" in unit or unit.endswith("-beat.service")
    ]


MARK = "mark-of-the-tests"


def systemctl(fleet: Fleet, *words: str) -> None:
    """Run systemctl for both instances of Redis."""
    app = fleet.of("redis")["celery_app_name"]
    both = [f"redis@{app}-broker.service", f"redis@{app}-results.service"]
    fleet.must(fleet.one("redis"), ["systemctl", *words, *both])


def stop_and_start(fleet: Fleet) -> None:
    """Stop Redis and start it again; the broker then has the same content as before."""
    # An entry like a worker's for a message that it holds; it expires in the year 5138.
    with resp.session(fleet, "broker", "worker") as worker:
        worker.send("MULTI")
        worker.send("ZADD", "unacked_index", 10**11, MARK)
        worker.send("HSET", "unacked", MARK, "{}")
        assert worker.send("EXEC") == [1, 1]
    systemctl(fleet, "stop")
    last(fleet, OUTAGE)
    systemctl(fleet, "start")
    with resp.session(fleet, "broker", "worker") as worker:
        worker.send("MULTI")
        worker.send("ZREM", "unacked_index", MARK)
        worker.send("HDEL", "unacked", MARK)
        assert worker.send("EXEC") == [1, 1]


def freeze_and_thaw(fleet: Fleet) -> None:
    """Stop Redis with a signal, so that connections stay open but get no answers."""
    systemctl(fleet, "kill", "--kill-whom=main", "--signal=STOP")
    try:
        last(fleet, OUTAGE)
    finally:
        systemctl(fleet, "kill", "--kill-whom=main", "--signal=CONT")


def last(fleet: Fleet, seconds: float) -> None:
    """Wait out an outage of this many seconds, and check that the API reports it within its own deadline."""
    end = time.monotonic() + seconds
    answer = web.api(fleet, TRIGGER, "POST")
    assert (answer.status, time.monotonic() < end) == (503, True), answer.body
    assert web.api(fleet, "/health").status == 200
    time.sleep(max(0.0, end - time.monotonic()))


@pytest.mark.parametrize("outage", [stop_and_start, freeze_and_thaw])
def test_the_fleet_recovers_from_an_outage_of_redis(
    fleet: Fleet,
    label: str,
    note: Callable[[str], None],
    outage: Callable[[Fleet], None],
) -> None:
    queues = sorted(fleet.of("celery_workers")["celery_worker_instances"])
    before = {key: units.state(fleet, *key) for key in consumers(fleet)}
    since = {name: units.now(fleet, name) for name in fleet.hosts("fleet")}
    tick = database.last_tick(fleet)
    # These run when the outage begins.
    tasks.send(fleet, [tasks.tracer(f"{label}-during-{q}", q, 10) for q in queues])
    wait_for(
        "a task runs on each queue",
        10,
        lambda: len(database.runs(fleet, f"{label}-during-")) == len(queues),
    )
    outage(fleet)
    healed = time.monotonic()

    def beats_again() -> bool:
        return database.last_tick(fleet) > tick

    tick = database.last_tick(fleet)
    tasks.send(fleet, [tasks.tracer(f"{label}-after-{q}", q, 0) for q in queues])
    wait_for(
        "a task runs on each queue again",
        HEALED,
        lambda: (
            sum(run["finished_at"] is not None for run in database.runs(fleet, f"{label}-after-"))
            == len(queues)
        ),
    )
    wait_for("beat's probe is run again", HEALED, beats_again)
    note(f"tasks and beat went on {time.monotonic() - healed:.1f} s after Redis did")
    units.wait_until_up(fleet, 30)
    answer = web.api(fleet, TRIGGER, "POST")
    assert answer.status == 202, answer.body

    killed, restarted = [], []
    for (name, unit), state in before.items():
        text = units.journal(fleet, name, unit, since[name])
        now = units.state(fleet, name, unit)
        if WATCHDOG.search(text):
            killed.append((name, unit))
        elif now["InvocationID"] != state["InvocationID"]:
            restarted.append((name, unit))
    assert (killed, restarted) == ([], [])
    database.assert_ran_once(fleet, f"{label}-during-", len(queues), 1)
