"""The state of a rolling restart, with real processes: which turn may begin, and what happens if a process dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    FleetWorker,
    Policy,
    RollError,
    Turn,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.state import (
    RollState,
    table,
)

from tests.unit.rolling_restart.test_order import restarting, worker

# Forks are faster than new interpreters, which would import everything again; Ansible also forks.
PROCESSES = multiprocessing.get_context("fork")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> RollState:
    return RollState(tmp_path, clock)


def fleet(count: int = 3) -> list[FleetWorker]:
    return [restarting(f"a@h{n}", "q") for n in range(count)]


def nodes(turns: list[Turn]) -> list[str]:
    return [turn.node for turn in turns]


def test_a_roll_from_its_beginning_to_its_report(
    state: RollState, clock: Clock, tmp_path: Path
) -> None:
    target = tmp_path / "report.json"
    state.open([*fleet(2), worker("b@h2", "q", presence="missing")], Policy(33), str(target))
    for host in ("h0", "h1"):
        state.join(host)
    assert nodes(state.begin("h0", "restart")) == ["a@h0"]
    assert state.begin("h1", "restart") == []
    clock.now += 5
    state.end("a@h0", "done", {"drained_in": 4.5, "handed_back": 7, "gate": 0.25})
    state.leave("h0")
    assert nodes(state.begin("h1", "restart")) == ["a@h1"]
    clock.now += 2
    state.end("a@h1", "done")
    clock.now += 60
    assert not state.leave("h1")
    report = json.loads(target.read_text())
    assert report == state.report()
    assert report["order"] == ["a@h0", "a@h1"]
    assert report["seconds"] == 7
    assert report["missing"] == ["b@h2"]
    assert report["failure"] == ""
    first, second = report["turns"]
    assert (first["at"], first["total"], first["drained_in"], first["handed_back"]) == (
        0,
        5,
        4.5,
        7,
    )
    assert (second["at"], second["total"]) == (5, 2)
    assert table(report)[1] == (*("a@h0", "restart", "0.0 s", "4.5 s", "7", "", "0.2 s", "5.0 s"),)


def test_no_other_user_can_read_the_state(state: RollState, tmp_path: Path) -> None:
    state.open(fleet(), Policy())
    assert stat.S_IMODE((tmp_path / "roll.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "roll.json"]


def test_duplicate_workers_are_refused(state: RollState) -> None:
    with pytest.raises(RollError, match="twice"):
        state.open([*fleet(1), *fleet(1)], Policy())


def test_a_host_starts_all_of_its_workers_together(state: RollState) -> None:
    fresh = [worker(f"{n}@h1", need="start", presence="inactive") for n in "abc"]
    state.open(fresh, Policy(batch=1))
    assert nodes(state.begin("h1", "start")) == ["a@h1", "b@h1", "c@h1"]


def test_after_a_failure_nothing_begins_and_the_first_one_is_kept(state: RollState) -> None:
    state.open(fleet(), Policy())
    state.begin("h0", "restart")
    state.join("h1")
    state.fail("h0", "h0: a@h0 does not start")
    state.fail("h1", "its consequence")
    assert state.failure == "h0: a@h0 does not start"
    state.end("a@h0", "failed")
    assert state.begin("h1", "restart") == []
    assert not state.leave("h0")
    assert state.leave("h1"), "the last one reports the result of all"
    assert state.report()["failure"] == "h0: a@h0 does not start"
    assert table(state.report())[1][1] == "restart, failed"


def test_after_a_first_worker_that_needed_nothing_only_one_follows(state: RollState) -> None:
    state.open(fleet(), Policy())
    for host in ("h1", "h2"):
        state.join(host)
    state.begin("h0", "restart")
    state.end("a@h0", "unneeded")
    assert len(state.begin("h1", "restart") + state.begin("h2", "restart")) == 1


def test_a_worker_that_turns_out_to_be_active_is_restarted_in_its_turn(state: RollState) -> None:
    hung = restarting("a@h1", "q", presence="inactive")
    state.open([hung, restarting("b@h1", "q")], Policy())
    assert nodes(state.begin("h1", "start")) == ["a@h1"]
    state.postpone("a@h1")
    assert state.waiting("h1", "start") == []
    assert [one.node for one in state.waiting("h1", "restart")] == ["a@h1", "b@h1"]
    assert nodes(state.begin("h1", "restart")) == ["a@h1"]


def test_a_silent_host_loses_its_place_in_the_order(state: RollState, clock: Clock) -> None:
    state.open(fleet(), Policy())
    state.join("h0")
    assert state.begin("h1", "restart") == [], "it is the turn of h0"
    clock.now += 10
    assert nodes(state.begin("h1", "restart")) == ["a@h1"]


def in_a_process(task: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=task)
    process.start()
    return process


def test_a_process_that_dies_in_its_turn_ends_the_roll(tmp_path: Path) -> None:
    state = RollState(tmp_path)
    state.open(fleet(), Policy())

    def begin_and_die() -> None:
        assert state.begin("h0", "restart")
        os.kill(os.getpid(), signal.SIGKILL)

    in_a_process(begin_and_die).join()
    assert state.begin("h1", "restart") == []
    assert state.failure == "h0: the process that was to restart a@h0 has died"


def test_the_first_worker_is_the_announced_one_whichever_host_asks_first(
    state: RollState, clock: Clock
) -> None:
    state.open(fleet(), Policy())
    assert state.begin("h1", "restart") == []
    assert nodes(state.begin("h0", "restart")) == ["a@h0"]
    state.end("a@h0", "done")
    state.leave("h0")
    clock.now += 1
    assert nodes(state.begin("h1", "restart")) == ["a@h1"]


def test_with_fewer_forks_than_hosts_no_host_waits_for_long(state: RollState, clock: Clock) -> None:
    state.open(fleet(), Policy())
    assert state.begin("h1", "restart") == []
    clock.now += 4
    assert nodes(state.begin("h1", "restart")) == ["a@h1"]


def test_hosts_wait_longer_for_the_canary(state: RollState, clock: Clock) -> None:
    state.open(fleet(), Policy(canary="a@h2"))
    for seconds in (0, 20):
        clock.now += seconds
        assert state.begin("h1", "restart") == []
    assert nodes(state.begin("h2", "restart")) == ["a@h2"]
    state.open(fleet(), Policy(canary="a@h2"))
    assert state.begin("h1", "restart") == []
    clock.now += 31
    assert nodes(state.begin("h1", "restart")) == ["a@h1"]


def test_no_host_waits_for_a_process_that_died_without_a_turn(
    state: RollState, clock: Clock
) -> None:
    state.open(fleet(), Policy())
    in_a_process(lambda: state.begin("h2", "restart")).join()
    assert state.begin("h1", "restart") == []
    clock.now += 4
    assert nodes(state.begin("h1", "restart")) == ["a@h1"]
    assert state.failure == ""


def test_processes_never_restart_too_many_workers_at_once(tmp_path: Path) -> None:
    hosts = 8
    state = RollState(tmp_path)
    state.open(fleet(hosts), Policy(min_capacity=75, batch=3))

    def roll_one(host: str) -> None:
        state.join(host)
        while state.waiting(host, "restart"):
            for turn in state.begin(host, "restart"):
                time.sleep(0.02)
                state.end(turn.node, "done")
            time.sleep(0.005)
        state.leave(host)

    running = [in_a_process(lambda host=f"h{n}": roll_one(host)) for n in range(hosts)]
    for process in running:
        process.join(timeout=20)
    assert [process.exitcode for process in running] == [0] * hosts
    turns = json.loads((tmp_path / "roll.json").read_text())["turns"].values()
    assert len(turns) == hosts
    spans = [(turn["began"], turn["ended"]) for turn in turns]
    beside = [sum(begin <= at < end for begin, end in spans) for at, _ in sorted(spans)]
    # Eight times four processes, and three quarters of them stay.
    assert max(beside) == 2
    assert beside[0] == beside[1] == 1, "the second waits for the first"


@pytest.mark.parametrize("where", ["nowhere/report.json", "lock"])
def test_a_report_that_can_t_be_written_is_refused_before_anything_begins(
    state: RollState, tmp_path: Path, where: str
) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(RollError, match=rf"^celery_restart_report: \S+{where} can't be written"):
        state.open(fleet(), Policy(), str(tmp_path / where))


def test_a_report_that_can_no_longer_be_written_hides_no_result(
    state: RollState, tmp_path: Path
) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    state.open(fleet(), Policy(), str(reports / "report.json"))
    assert json.loads((reports / "report.json").read_text())["turns"] == []
    shutil.rmtree(reports)
    state.fail("h0", "h0: what failed")
    assert state.leave("h0")
    assert state.failure == "h0: what failed"


def test_the_result_of_all_is_reported_once(state: RollState) -> None:
    state.open(fleet(), Policy())
    state.join("h0")
    state.fail("h0", "h0: what failed")
    assert state.leave("h0")
    state.join("h1")  # with fewer forks than hosts it comes later
    assert not state.leave("h1")
