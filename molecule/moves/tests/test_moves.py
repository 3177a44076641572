"""Hosts and components move: a worker host is taken out, beat and Flower change hosts, a worker with a new queue comes.

One removal and one run of site.yml do all of this, as docs/hosts.md says, and another run takes it back. The tests
look at what these runs did. Those that use `back` have to come last.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from support import database, resp, tasks, units, web
from support.change import SENDING, STARTED, STARTING, STOPPED, Done, Fleets, Unit
from support.plays import Run
from support.waiting import wait_for

GONE, STAYS, CONTROL = "worker2", "worker1", "control1"
NEW = "reports"
#: Seconds between the last entry that the old beat sends and the first of the new one: two plays and an interval.
WITHOUT_BEAT = 60.0
LONG = 6.0  # seconds of a task that runs while its worker is told to stop


@dataclass(frozen=True)
class Moves:
    """What was done, and the fleet's state at each step.

    Attributes:
        fleet: The fleet by the new hosts.yml.
        label: Of the tasks that ran while the host was taken out; there were `number`.
        removal: The run of remove_fleet.yml.
        left: What the host still has of the fleet.
        done: The run of site.yml.
        rights: Whether the producer might send to the new queue, before and after it.
        clocks: Each host's time before.
        pids: All main processes before, after the removal, and after the run.
    """

    fleet: Fleets
    label: str
    number: int
    removal: Run
    left: str
    done: Done
    rights: tuple[bool, bool]
    clocks: Mapping[str, str]
    pids: tuple[Mapping[Unit, str], Mapping[Unit, str], Mapping[Unit, str]]


def may_send(changes: Fleets, queue: str) -> bool:
    """Return whether Redis lets the producer send to a queue."""
    with resp.session(changes.fleet, "broker", "admin") as admin:
        answer = admin.send("ACL", "DRYRUN", "producer", "LPUSH", queue, "x")
    return bool(answer == "OK")


def moving(changes: Fleets, host: str) -> set[Unit]:
    """Return the units that change hosts besides workers, on one of these."""
    return {(host, f"{changes.app}-{part}.service") for part in ("beat", "flower")}


def belongings(changes: Fleets, name: str) -> str:
    """List what a host has of the application and of what all applications share."""
    app = changes.app
    places = (
        *("/etc/celery-fleet", "/usr/lib/celery-fleet", "/var/lib/celery-fleet"),
        *(f"/opt/{app}", f"/var/lib/{app}", f"/var/log/{app}", f"/run/{app}*"),
    )
    script = f"""
        ls -d {" ".join(places)} 2>/dev/null
        systemctl list-units --plain --no-legend '{app}*'
        systemctl list-unit-files --no-legend '{app}*'
        pgrep --list-full --uid {app}
        getent passwd {app}
    """
    return changes.fleet.execute(name, script).output


def nodes(changes: Fleets, prefix: str) -> set[str]:
    return {run["node"] for run in database.runs(changes.fleet, prefix)}


def run_once(changes: Fleets, queue: str, number: int = 1) -> set[str]:
    """Send tasks to a queue, wait until each has run once, and return the nodes that ran them."""
    label = uuid.uuid4().hex[:12]
    tasks.send(changes.fleet, [tasks.tracer(f"{label}-{n}", queue, 0.2) for n in range(number)])
    database.assert_ran_once(changes.fleet, label, number, 30)
    return nodes(changes, label)


def restore(changes: Fleets) -> Done:
    """Bring the fleet back to its inventory."""
    done = changes.site("moves-back")
    assert done.run.status == 0, done.run.end
    return done


@pytest.fixture(scope="module")
def moves(changes: Fleets) -> Iterator[Moves]:
    """Take the host out while it works; then run site.yml with the new inventory."""
    # Preflight refuses a queue without a worker, and only the host that goes has this one.
    workers = [*changes.fleet.expected[STAYS]["celery_worker_host_instances"], "analytics", NEW]
    moved = changes.with_hosts(
        redis={"redis1": {}},
        celery_workers={STAYS: {"celery_worker_host_instances": workers}},
        celery_beat={STAYS: {}},
        celery_producers={CONTROL: {}},
        flower={STAYS: {}},
    )
    instances = changes.fleet.of("celery_workers")["celery_worker_instances"]
    new = {**instances, NEW: {"pool": "threads", "concurrency": 2}}
    label = uuid.uuid4().hex[:12]
    # Both hosts have work for long enough that some of it runs when the worker is told to stop.
    number = 8 * instances["discounts"]["concurrency"]
    clocks = {name: units.now(changes.fleet, name) for name in changes.fleet.hosts("fleet")}
    before = changes.pids()
    try:
        tasks.send(
            changes.fleet,
            [tasks.tracer(f"{label}-{n:02d}", "discounts", LONG) for n in range(number)],
        )
        node = f"discounts@{GONE}"
        wait_for(f"{node} runs one", 20, lambda: node in nodes(changes, label))
        removal = changes.remove("moves-removal", f"--limit={GONE}")
        assert removal.status == 0, removal.end
        left, without = belongings(changes, GONE), changes.pids()
        might = may_send(changes, NEW)
        done = moved.site("moves", *changes.variables(celery_worker_instances=new))
        assert done.run.status == 0, done.run.end
        after = {**changes.pids(), **moved.pids()}
        rights = (might, may_send(changes, NEW))
        pids = (before, without, after)
        yield Moves(moved, label, number, removal, left, done, rights, clocks, pids)
    finally:
        # Usually `back` has already done this.
        restore(changes)
        assert changes.plan("moves-back-plan").items == []


def test_a_removed_host_finishes_its_tasks(changes: Fleets, moves: Moves) -> None:
    """It finishes its running tasks; those that it has not begun run on the other host."""
    database.assert_ran_once(changes.fleet, moves.label, moves.number, 90)
    ran = nodes(changes, moves.label)
    assert ran == {f"discounts@{GONE}", f"discounts@{STAYS}"}


def test_a_removed_host_keeps_nothing(moves: Moves) -> None:
    assert moves.left == ""
    assert [unit for unit in moves.pids[1] if unit[0] == GONE] == []


def test_removal_touches_no_other_host(moves: Moves) -> None:
    before, without, _ = moves.pids
    assert without == {unit: pid for unit, pid in before.items() if unit[0] != GONE}
    assert {host for host, number in moves.removal.changed.items() if number} == {GONE}
    assert "take it out of the inventory as well" in " ".join(moves.removal.text.split())


def test_nothing_restarts_because_workers_come_and_go(changes: Fleets, moves: Moves) -> None:
    """Not even Redis: the rights on the new queue are set live."""
    _, without, after = moves.pids
    assert moves.done.of("restart") == set()
    assert ("redis1", f"redis@{changes.app}-broker.service") in moves.done.of("live")
    went_on = {unit: pid for unit, pid in without.items() if unit not in moving(changes, CONTROL)}
    assert {unit: after.get(unit) for unit in went_on} == went_on
    came = {changes.unit(STAYS, worker) for worker in ("analytics", NEW)}
    # Flower's site needs nginx.
    came.add((STAYS, "nginx.service"))
    assert after.keys() - without.keys() == came | moving(changes, STAYS)


def test_new_queue_is_allowed_live_and_served(moves: Moves) -> None:
    """By a worker with threads."""
    assert moves.rights == (False, True)
    assert run_once(moves.fleet, NEW, 4) == {f"{NEW}@{STAYS}"}
    assert "--pool=threads" in moves.fleet.command_line(moves.fleet.unit(STAYS, NEW))


def test_worker_with_threads_ends_its_tasks_at_a_restart(changes: Fleets, moves: Moves) -> None:
    """`systemctl restart` returns when they have ended and it consumes again."""
    label = uuid.uuid4().hex[:12]
    unit = moves.fleet.unit(STAYS, NEW)
    tasks.send(changes.fleet, [tasks.tracer(f"{label}-{n}", NEW, LONG) for n in range(4)])
    wait_for("two run", 20, lambda: len(database.runs(changes.fleet, label)) == 2)
    changes.fleet.must(unit[0], ["systemctl", "restart", unit[1]])
    begun = [run for run in database.runs(changes.fleet, label) if run["finished_at"] is not None]
    assert len(begun) >= 2, "a task was cut off"
    # The other two were handed back, and run in the new process.
    database.assert_ran_once(changes.fleet, label, 4, 30)
    assert len({run["pid"] for run in database.runs(changes.fleet, label)}) == 2


def test_queues_of_the_host_that_is_gone_are_served(moves: Moves) -> None:
    assert run_once(moves.fleet, "analytics") == {f"analytics@{STAYS}"}
    assert run_once(moves.fleet, "discounts", 4) == {f"discounts@{STAYS}"}


# --- beat and Flower -------------------------------------------------------------------------------


def assert_moved(changes: Fleets, old: str, new: str, clocks: Mapping[str, str]) -> None:
    """Check that beat ended on one host before it began on another: by systemd's journal, and by what each sent."""
    starting = assert_stopped_before(changes, "beat", old, new, clocks)
    first = wait_for(
        "the new one sends", 30, lambda: changes.beat_logged(new, clocks[new], SENDING)
    )[0]
    last = changes.beat_logged(old, clocks[old], SENDING)[-1]
    assert last < starting < first < last + WITHOUT_BEAT


def assert_stopped_before(
    changes: Fleets, part: str, old: str, new: str, clocks: Mapping[str, str]
) -> float:
    """Check that a part ended on one host before it began on another; return when it began, in Unix time."""
    unit = f"{changes.app}-{part}.service"
    stopped = changes.events((old, unit), STOPPED, clocks[old])
    starting = changes.events((new, unit), STARTING, clocks[new])
    assert (len(stopped), len(starting)) == (1, 1)
    # All containers use this machine's clock.
    assert stopped < starting
    assert changes.events((old, unit), STARTED, clocks[old]) == []
    state = units.state(changes.fleet, old, unit)
    assert (state["ActiveState"], state["MainPID"]) == ("inactive", "0")
    assert state["UnitFileState"] != "enabled"
    return starting[0]


def assert_flower_moved(old: Fleets, new: Fleets, clocks: Mapping[str, str]) -> None:
    """Check that Flower answers on its new host, and that nginx has no site for it on the old one."""
    here, there = old.fleet.one("flower"), new.fleet.one("flower")
    assert_stopped_before(old, "flower", here, there, clocks)
    port = new.fleet.expected[there]["flower_port"]
    assert web.request(new.fleet.expected[there], there, port, "/").status == 401
    with pytest.raises(OSError, match="refused"):
        web.request(old.fleet.expected[here], here, port, "/")


def test_beat_moves_and_there_are_never_two(changes: Fleets, moves: Moves) -> None:
    assert_moved(changes, CONTROL, STAYS, moves.clocks)
    # The entry is not only sent: a worker runs it.
    tick = database.last_tick(changes.fleet)
    wait_for("the probe is run", 15, lambda: database.last_tick(changes.fleet) > tick)


def test_flower_moves_with_its_site(changes: Fleets, moves: Moves) -> None:
    assert_flower_moved(changes, moves.fleet, moves.clocks)


# --- and back --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Back:
    """The result of the way back.

    Attributes:
        clocks: Each host's time before.
        pids: All main processes before and after.
    """

    clocks: Mapping[str, str]
    pids: tuple[Mapping[Unit, str], Mapping[Unit, str]]


@pytest.fixture(scope="module")
def back(changes: Fleets, moves: Moves) -> Back:
    """Run site.yml with the inventory as it was; the bare host is a new one to it."""
    clocks = {name: units.now(changes.fleet, name) for name in changes.fleet.hosts("fleet")}
    before = {**changes.pids(), **moves.fleet.pids()}
    restore(changes)
    return Back(clocks, (before, {**moves.fleet.pids(), **changes.pids()}))


def test_new_host_restarts_nothing(changes: Fleets, back: Back) -> None:
    before, after = back.pids
    workers_there = {changes.unit(STAYS, worker) for worker in ("analytics", NEW)}
    came_and_went = workers_there | moving(changes, STAYS)
    assert before.keys() - after.keys() == came_and_went
    went_on = {unit: pid for unit, pid in before.items() if unit not in came_and_went}
    assert {unit: after.get(unit) for unit in went_on} == went_on
    workers = changes.fleet.expected[GONE]["celery_worker_host_instances"]
    own = {changes.unit(GONE, worker) for worker in workers}
    assert after.keys() - before.keys() == own | moving(changes, CONTROL)
    assert run_once(changes, "analytics") == {f"analytics@{GONE}"}


def test_the_right_on_a_removed_queue_is_taken_back(changes: Fleets, back: Back) -> None:
    """A whole run ends by taking back rights that the inventory no longer has."""
    assert not may_send(changes, NEW)


def test_beat_moves_back_and_there_are_never_two(changes: Fleets, back: Back) -> None:
    assert_moved(changes, STAYS, CONTROL, back.clocks)


def test_flower_moves_back_with_its_site(changes: Fleets, moves: Moves, back: Back) -> None:
    assert_flower_moved(moves.fleet, changes, back.clocks)
