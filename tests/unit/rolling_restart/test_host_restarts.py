"""A host's part in a rolling restart, with the real state and real turns; only the connection to the host is a fake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.host_restarts import (
    ConnectionLostError,
    HostRestartError,
    HostRestarts,
    ReconcileFailedError,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    FleetWorker,
    Policy,
    Turn,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.state import RollState
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.worker_restart import (
    WorkerPaths,
    WorkerRestart,
)

from tests.unit.rolling_restart.test_order import restarting, worker

PLACE = WorkerPaths("/etc/celery-fleet/shop", "/opt/shop", "/var/lib/shop")


class Host:
    """A fake host whose units change state before the next look; a test sets what fails."""

    def __init__(self) -> None:
        self.units: dict[str, dict[str, Any]] = {}
        self.told: list[tuple[str, str]] = []
        self.probes: list[Mapping[str, Any]] = []
        self.said: list[str] = []
        self.warned: list[str] = []
        self.differing: set[str] | None = None
        self.settled = 0
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.lost = False
        self.refusing: set[str] = set()
        self.deaf = 0
        self.starts = 0

    def state(self, name: str) -> dict[str, Any]:
        fresh = {"active": "active", "sub": "running", "status": "", "pid": 1, "result": "success"}
        fresh |= {"exit_status": 0, "restarts": 0, "invocation": "old", "job": False, "drain": None}
        fresh |= {"ready_at": 3.0, "stopping_at": 1.0, "starting_at": 2.0, "load": "loaded"}
        return self.units.setdefault(name, fresh)

    def move(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self.lost:
            raise ConnectionLostError("timed out")
        errors = []
        for verb, what in request["do"]:
            errors.append("")
            if not isinstance(what, str):
                continue
            if what in self.refusing:
                errors[-1] = f"`systemctl {verb} {what}` failed"
                continue
            self.told.append((verb, what))
            unit = self.state(what)
            self.starts += 1
            if verb in ("start", "restart"):
                unit.update(invocation=f"n{self.starts}", pid=self.starts + 100, active="active")
            if what in self.broken:
                unit.update(active="failed", pid=0)
            if verb == "stop":
                unit.update(active="inactive")
        units = {name: dict(self.state(name)) for name in request["units"]}
        journals = dict.fromkeys(request["journals"], "line one\nline two")
        if self.deaf > 0 and request["units"]:
            self.deaf -= 1
            units = {}
        error = "" if units or not request["units"] else "systemd does not answer"
        return {"units": units, "journals": journals, "errors": errors, "error": error}

    def reconcile(self) -> frozenset[str]:
        self.settled += 1
        return frozenset(map(unit, "abc") if self.differing is None else self.differing)

    def probe(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.probes.append(request)
        nodes = {
            name: {"ok": name not in self.silent, "errors": [], "state": "no answer"}
            for name in request.get("nodes", {})
        }
        return {"nodes": nodes, "errors": ["broker: gone"] if request.get("forget") else []}

    def say(self, line: str) -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warned.append(line)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def state(tmp_path: Path) -> RollState:
    return RollState(tmp_path)


def worker_group(
    state: RollState, host: Host, name: str = "h1", trouble: Any = str, forced: bool = False
) -> HostRestarts:
    def restart(turn: Turn, one: FleetWorker) -> WorkerRestart:
        return WorkerRestart(turn, one, PLACE, timeout=30, forced=forced)

    state.join(name)
    return HostRestarts(name, state, host, restart, 30, trouble, sleep=lambda seconds: None)


def unit(name: str) -> str:
    return f"app-worker@{name}.service"


def test_all_workers_of_a_host_restart(state: RollState, host: Host) -> None:
    state.open(
        [restarting("a@h1", "q"), restarting("b@h1", "q"), restarting("c@h1", "q")], Policy()
    )
    assert worker_group(state, host).take_turns("restart") == 3
    assert sorted(host.told) == [("restart", unit(name)) for name in "abc"]
    assert host.settled == 1, "once for all turns of a host"
    assert state.failure == ""
    report = state.report()
    assert [turn["outcome"] for turn in report["turns"]] == ["done"] * 3
    assert all(turn["started_in"] == 1 and turn["drained_in"] == 1 for turn in report["turns"])
    assert any(line == "h1  app-worker@a  serves after 1.0 s" for line in host.said)


def test_a_new_host_starts_all_workers_together_with_one_probe(
    state: RollState, host: Host
) -> None:
    fresh = [worker(f"{name}@h1", need="start", presence="inactive") for name in "abc"]
    state.open(fresh, Policy(batch=1))
    for name in "abc":
        host.state(unit(name)).update(active="inactive")
    worker_group(state, host).take_turns("start")
    assert len(host.told) == 3
    assert [sorted(probe["nodes"]) for probe in host.probes] == [["a@h1", "b@h1", "c@h1"]]


def test_a_worker_that_no_longer_differs_is_left_alone(state: RollState, host: Host) -> None:
    state.open([restarting("a@h1", "q"), restarting("b@h1", "q")], Policy())
    host.differing = {unit("b")}
    worker_group(state, host).take_turns("restart")
    assert host.told == [("restart", unit("b"))]
    assert [turn["outcome"] for turn in state.report()["turns"]] == ["unneeded", "done"]


@pytest.mark.parametrize("forced", [False, True])
def test_a_worker_that_does_not_start_ends_the_roll_with_its_journal(
    state: RollState, host: Host, forced: bool
) -> None:
    state.open([restarting("a@h1", "q"), restarting("b@h1", "q"), worker("c@h2", "q")], Policy())
    host.broken = {unit("a")}
    with pytest.raises(HostRestartError) as failure:
        worker_group(state, host, forced=forced).take_turns("restart")
    text = str(failure.value)
    assert text == state.failure
    assert f"h1: {unit('a')} does not start: it is failed" in text
    assert "  line one\n  line two\n" in text
    assert "Queue q is consumed by b@h1, c@h2." in text
    assert f"journalctl -u {unit('a')} -n 100" in text
    # A restart that was asked for keeps no record of the workers that have had it.
    again = "restarts all workers once more" if forced else "continues where this run stopped"
    assert f"run the same command again: it {again}" in text
    assert host.told == [("restart", unit("a"))], "no worker follows"
    assert state.report()["turns"][0]["outcome"] == "failed"


def test_a_queue_without_consumers_is_named(state: RollState, host: Host) -> None:
    state.open([restarting("a@h1", "q", processes=1)], Policy())
    host.silent = {"a@h1"}
    with pytest.raises(HostRestartError, match=r"no answer[\s\S]*No worker consumes queue q\."):
        worker_group(state, host).take_turns("restart")


def test_turns_under_way_end_when_one_fails(state: RollState, host: Host) -> None:
    fleet = [restarting(f"{name}@h1", name, processes=1) for name in "abc"]
    state.open(fleet, Policy())
    host.silent = {"b@h1"}
    with pytest.raises(HostRestartError, match=r"app-worker@b\.service no answer"):
        worker_group(state, host).take_turns("restart")
    outcomes = {turn["node"]: turn["outcome"] for turn in state.report()["turns"]}
    assert outcomes == {"a@h1": "done", "b@h1": "failed", "c@h1": "done"}


def test_a_lost_host_is_a_failure_that_names_the_worker_of_the_turn(
    state: RollState, host: Host
) -> None:
    state.open([restarting("a@h1", "q"), restarting("b@h2", "q")], Policy())
    host.lost = True
    with pytest.raises(HostRestartError, match=r"lost during the turn of a@h1 \(timed out\)"):
        worker_group(state, host).take_turns("restart")
    assert state.begin("h2", "restart") == []


def test_files_that_can_t_be_written_are_a_failure(
    state: RollState, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> frozenset[str]:
        raise ReconcileFailedError("disk full")

    monkeypatch.setattr(host, "reconcile", refuse)
    state.open([restarting("a@h1", "q")], Policy())
    with pytest.raises(HostRestartError, match="h1: disk full"):
        worker_group(state, host).take_turns("restart")
    assert host.told == []


def test_without_the_lease_nothing_begins(state: RollState, host: Host) -> None:
    state.open([restarting("a@h1", "q")], Policy())
    with pytest.raises(HostRestartError, match="h1: the lease is lost; no more workers begin"):
        worker_group(state, host, trouble=lambda: "the lease is lost").take_turns("restart")
    assert host.told == []


def test_a_failure_elsewhere_is_not_reported_by_this_host(state: RollState, host: Host) -> None:
    state.open([restarting("a@h1", "q")], Policy())
    state.fail("h2", "h2: something")
    assert worker_group(state, host).take_turns("restart") == 0


def test_a_worker_that_turns_out_to_be_active_is_restarted_in_its_turn(
    state: RollState, host: Host
) -> None:
    idle = worker("a@h1", "q", need="start", presence="inactive", processes=1)
    state.open([idle], Policy())
    own = worker_group(state, host)
    own.take_turns("start")
    assert host.told == []
    own.take_turns("restart")
    assert host.told == [("restart", unit("a"))]


def test_data_of_a_removed_worker_that_stays_in_redis_is_a_warning(
    state: RollState, host: Host
) -> None:
    state.open([worker("a@h1", "q", need="remove")], Policy())
    worker_group(state, host).take_turns("remove")
    assert host.told == [("stop", unit("a")), ("disable", unit("a"))]
    assert host.warned == ["the data of a@h1 stays in Redis: broker: gone"]
    assert host.said[-1] == "h1  app-worker@a  is gone"


def test_a_worker_is_overlapped_by_a_second_instance(state: RollState, host: Host) -> None:
    state.open([restarting("a@h1")], Policy())
    host.state(unit("a.next")).update(active="inactive", invocation="")
    worker_group(state, host).take_turns("restart")
    assert host.told == [
        ("restart", unit("a.next")),
        ("restart", unit("a")),
        ("stop", unit("a.next")),
    ]
    assert [sorted(probe.get("nodes", probe.get("forget"))) for probe in host.probes] == [
        ["a.next@h1"],
        ["a@h1"],
        ["a.next@h1"],
    ]
    (turn,) = state.report()["turns"]
    assert turn["overlapped"]
    assert "stand_in_gate" in turn


def test_a_second_instance_that_fails_is_reported_at_once_and_removed(
    state: RollState, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.open([restarting("a@h1")], Policy())
    host.silent = {"a.next@h1"}
    failed_at_stop: list[str] = []
    move = host.move

    def watching(request: Mapping[str, Any]) -> dict[str, Any]:
        if [verb for verb, _ in request["do"]] == ["stop"]:
            failed_at_stop.append(state.failure)
        return move(request)

    monkeypatch.setattr(host, "move", watching)
    with pytest.raises(
        HostRestartError, match=r"Queue a is consumed by a@h1, which was not touched\."
    ):
        worker_group(state, host).take_turns("restart")
    assert host.told == [("restart", unit("a.next")), ("stop", unit("a.next"))]
    assert host.probes[-1]["forget"] == ["a.next@h1"]
    assert "no answer" in failed_at_stop[0]


def test_a_systemctl_command_that_fails_only_fails_its_own_turn(
    state: RollState, host: Host
) -> None:
    state.open([worker(f"{name}@h1", need="start", presence="inactive") for name in "ab"], Policy())
    for name in "ab":
        host.state(unit(name)).update(active="inactive")
    host.refusing = {unit("a")}
    with pytest.raises(
        HostRestartError, match=rf"{unit('a')} `systemctl start {unit('a')}` failed"
    ):
        worker_group(state, host).take_turns("start")
    outcomes = {turn["node"]: turn["outcome"] for turn in state.report()["turns"]}
    assert outcomes == {"a@h1": "failed", "b@h1": "done"}


def test_a_systemd_that_does_not_answer_is_asked_again(state: RollState, host: Host) -> None:
    state.open([restarting("a@h1", "q"), worker("b@h2", "q")], Policy())
    host.deaf = 2
    assert worker_group(state, host).take_turns("restart") == 1
    assert host.told == [("restart", unit("a"))]


def test_a_systemd_that_never_answers_fails_all_turns_under_way(
    state: RollState, host: Host
) -> None:
    state.open([worker(f"{name}@h1", need="start", presence="inactive") for name in "ab"], Policy())
    host.deaf = 99
    with pytest.raises(HostRestartError, match="systemd does not answer"):
        worker_group(state, host).take_turns("start")
    assert [turn["outcome"] for turn in state.report()["turns"]] == ["failed"] * 2


@pytest.mark.parametrize("elsewhere", ["", "h2: the lease is lost"])
def test_a_lease_that_is_lost_while_files_are_written(
    state: RollState, host: Host, elsewhere: str
) -> None:
    state.open([restarting("a@h1", "q")], Policy())

    def trouble() -> str:
        if host.settled and elsewhere:
            state.fail("h2", elsewhere)
        return "the lease is lost" if host.settled else ""

    own = worker_group(state, host, trouble=trouble)
    if elsewhere:
        own.take_turns("restart")
    else:
        with pytest.raises(HostRestartError, match="the lease is lost; no more workers begin"):
            own.take_turns("restart")
    assert host.told == []
    assert state.report()["turns"][0]["outcome"] == "failed"


def test_a_lease_that_is_lost_in_the_middle_of_a_turn(state: RollState, host: Host) -> None:
    state.open([restarting("a@h1", "q"), restarting("b@h1", "q")], Policy())
    with pytest.raises(HostRestartError, match="the lease is lost; no more workers begin"):
        worker_group(
            state, host, trouble=lambda: "the lease is lost" if host.told else ""
        ).take_turns("restart")
    assert len(host.told) == 1
    assert state.report()["turns"][0]["outcome"] == "done", "a turn that has begun must end"


def test_a_host_that_is_lost_while_a_turn_cleans_up_hides_no_failure(
    state: RollState, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.open([restarting("a@h1")], Policy())
    host.silent = {"a.next@h1"}
    move = host.move

    def lost(request: Mapping[str, Any]) -> dict[str, Any]:
        if [verb for verb, _ in request["do"]] == ["stop"]:
            raise ConnectionLostError("timed out")
        return move(request)

    monkeypatch.setattr(host, "move", lost)
    with pytest.raises(HostRestartError, match=r"no answer[\s\S]*connection was lost"):
        worker_group(state, host).take_turns("restart")
