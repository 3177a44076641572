"""A worker's turn on a fake host: its requests, its messages, and when it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.canary import CanaryLimits
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    FleetWorker,
    Kind,
    Turn,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.worker_restart import (
    HostAnswer,
    HostRequest,
    Postponed,
    TurnError,
    WorkerPaths,
    WorkerRestart,
)

from tests.unit.rolling_restart.test_order import restarting, worker

UNIT = "app-worker@a.service"
NEXT = "app-worker@a.next.service"
PLACE = WorkerPaths("/etc/celery-fleet/shop", "/opt/shop", "/var/lib/shop")


class Host:
    """Units as systemd shows them; tests change them between two steps."""

    def __init__(self, restart: WorkerRestart, now: list[float]) -> None:
        self.steps = restart.steps()
        self.restart = restart
        self.now = now
        self.units: dict[str, dict[str, Any]] = {
            name: self.state(active="inactive", sub="dead", pid=0) for name in (UNIT, NEXT)
        }
        self.units[UNIT] = self.state(invocation="old", pid=10)
        self.requests: list[HostRequest] = [next(self.steps)]

    @staticmethod
    def state(**changes: Any) -> dict[str, Any]:
        state = {"load": "loaded", "active": "active", "sub": "running", "status": "", "pid": 0}
        state |= {"result": "success", "exit_status": 0, "restarts": 0, "invocation": ""}
        state |= {
            "job": False,
            "ready_at": 0.0,
            "stopping_at": 0.0,
            "starting_at": 0.0,
            "drain": None,
        }
        return state | changes

    def show(self, name: str = UNIT, **changes: Any) -> None:
        self.units[name] = {**self.units[name], **changes}

    def step(self, **seen: Any) -> HostRequest:
        units = {name: dict(state) for name, state in self.units.items()}
        request = self.steps.send(HostAnswer(units=units, **seen))
        self.requests.append(request)
        return request

    def until(self, wanted: str) -> HostRequest:
        """Run steps until the turn makes a request of this kind."""
        for _ in range(10):
            request = self.requests[-1]
            if wanted in [verb for verb, _ in request.do] or getattr(request, wanted, None):
                return request
            self.step()
        raise AssertionError(f"no request to {wanted}: {self.requests}")

    def ends(self, **seen: Any) -> None:
        with pytest.raises(StopIteration):
            self.step(**seen)

    def starts_anew(self, name: str = UNIT, invocation: str = "new", pid: int = 20) -> None:
        self.show(
            name, active="active", sub="running", job=False, invocation=invocation, pid=pid,
            stopping_at=100.0, starting_at=104.5, ready_at=106.0, status="",
        )  # fmt: skip


def host(
    one: FleetWorker | None = None, kind: Kind = "restart", overlapped: bool = False, **options: Any
) -> Host:
    one = one or restarting("a@h1", "q")
    now = [0.0]
    turn = Turn(one.node, one.host, kind, overlapped, observed="limits" in options)
    return Host(WorkerRestart(turn, one, PLACE, timeout=30, clock=lambda: now[0], **options), now)


def probed(request: HostRequest) -> Mapping[str, Any]:
    ((_, request),) = request.probe.items()
    return request


# -- a restart ---------------------------------------------------------------------------------------------


def test_a_restart_from_drain_to_canary() -> None:
    h = host(tasks=("app.t",))
    assert h.until("reconcile").reconcile == "once"
    assert h.until("restart").do == (("restart", UNIT),)
    drain = {"invocation": "old", "running": 3, "handed_back": 16}
    h.show(active="deactivating", job=True, drain=drain)
    h.step()
    h.step()
    assert h.restart.line == "draining, 3 tasks left, 16 handed back"
    h.show(
        active="activating", sub="start", invocation="new", pid=20, status="waits for the broker"
    )
    h.step()
    assert h.restart.line == "starting, waits for the broker"
    h.starts_anew()
    request = h.step()
    assert list(request.probe) == ["a@h1"]
    assert probed(request) == {"queues": ["q"], "pid": 20, "tasks": ["app.t"]}
    h.now[0] += 0.5
    h.ends()
    assert h.restart.line == "serves after 1.5 s"
    assert h.restart.outcome == "done"
    assert h.restart.figures == {
        "started_in": 1.5,
        "drained_in": 4.5,
        "handed_back": 16,
        "gate": 0.5,
    }


def test_the_drain_record_of_another_process_is_ignored() -> None:
    h = host()
    h.until("restart")
    h.show(drain={"invocation": "of last week", "running": 9, "handed_back": 99})
    h.show(active="deactivating", job=True)
    h.step()
    h.step()
    assert h.restart.line == "draining"
    h.starts_anew()
    h.step()
    h.ends()
    assert "handed_back" not in h.restart.figures


def test_a_worker_that_no_longer_differs_is_left_alone() -> None:
    h = host()
    h.until("reconcile")
    h.ends(differs=False)
    assert h.restart.outcome == "unneeded"
    assert not any(request.do for request in h.requests)


def test_a_forced_restart_needs_no_difference() -> None:
    h = host(forced=True)
    h.until("reconcile")
    h.step(differs=False)
    assert h.until("restart")


def test_a_stopped_worker_is_started() -> None:
    h = host(worker("a@h1", "q", need="start", presence="inactive"), "start")
    h.show(active="inactive", sub="dead", pid=0)
    assert h.until("start").do == (("start", UNIT),)
    h.show(active="activating", invocation="new", pid=20, job=True)
    h.step()
    h.starts_anew()
    h.step()
    h.ends()
    assert "drained_in" not in h.restart.figures


# -- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"active": "failed", "result": "exit-code", "exit_status": 1}, "does not start"),
        ({"active": "activating", "sub": "auto-restart", "exit_status": 78}, "does not start"),
    ],
)
def test_a_process_that_does_not_start_is_a_failure(changes: dict[str, Any], words: str) -> None:
    h = host()
    h.until("restart")
    h.show(**{"invocation": "new", "pid": 0, **changes})
    with pytest.raises(TurnError, match=words) as error:
        h.step()
    assert error.value.unit == UNIT


@pytest.mark.parametrize("counted", [0, 40])
def test_a_process_that_systemd_keeps_restarting_is_a_failure(counted: int) -> None:
    h = host()
    h.until("restart")
    h.show(active="activating", sub="auto-restart", invocation="new", pid=0, restarts=counted)
    h.step()
    h.show(restarts=counted + 2)
    h.step()
    h.show(restarts=counted + 3)
    with pytest.raises(TurnError, match=f"restarted {counted + 3} times"):
        h.step()


def test_restarts_of_the_previous_process_do_not_count() -> None:
    h = host()
    h.until("restart")
    h.show(active="activating", sub="start", invocation="new", pid=20, restarts=40)
    h.step()
    h.starts_anew()
    assert h.step().probe


def test_the_exit_status_of_the_previous_process_does_not_count() -> None:
    h = host()
    h.until("restart")
    h.show(active="activating", sub="start-pre", invocation="new", exit_status=78)
    h.step()
    h.step()
    assert h.restart.line == "starting"


def test_a_process_that_never_becomes_ready_is_a_failure() -> None:
    h = host()
    h.until("restart")
    h.show(active="activating", sub="start", invocation="new", pid=20, status="no broker")
    h.step()
    h.now[0] += 31
    h.step()
    with pytest.raises(TurnError, match=r"within 30 s.*activating.*says “no broker”"):
        h.step()


def test_an_answer_that_came_late_does_not_say_that_a_process_is_not_ready() -> None:
    """The canary of another worker of the host came between: it may take longer than what remained of the time."""
    h = host()
    h.until("restart")
    h.show(active="activating", sub="start", invocation="new", pid=20)
    h.step()
    h.now[0] += 29
    h.step()
    h.now[0] += 60
    h.step()
    h.starts_anew()
    assert h.step().probe


def test_the_time_of_a_drain_does_not_count_for_the_start() -> None:
    h = host()
    h.until("restart")
    h.show(active="deactivating", job=True)
    for _ in range(5):
        h.now[0] += 600
        h.step()
    h.starts_anew()
    assert h.step().probe


def test_a_failed_canary_is_a_failure() -> None:
    h = host()
    h.until("restart")
    h.starts_anew()
    assert h.step().probe
    with pytest.raises(TurnError, match="does not consume q"):
        h.step(errors=("does not consume q",))


def test_a_job_that_systemd_dropped_is_a_failure() -> None:
    h = host()
    h.until("restart")
    h.show(active="inactive", job=False)
    with pytest.raises(TurnError, match="did not start"):
        h.step()


# -- leftovers of an earlier run ------------------------------------------------------------------------------


def test_a_job_of_an_earlier_run_is_awaited_and_the_worker_is_checked_again() -> None:
    h = host()
    h.show(active="deactivating", job=True)
    h.step()
    h.step()
    assert h.restart.line == "waits for a job of an earlier run"
    assert not any(request.do or request.reconcile for request in h.requests)
    h.starts_anew()
    assert h.step().reconcile == "again"
    h.ends(differs=False)
    assert h.restart.outcome == "unneeded"


@pytest.mark.parametrize("waited", [True, False])
def test_a_worker_that_turns_out_to_be_active_waits_for_its_turn(waited: bool) -> None:
    h = host(worker("a@h1", "q", need="start", presence="inactive"), "start")
    if waited:
        h.show(active="deactivating", job=True)
        h.step()
    h.starts_anew()
    h.until("reconcile")
    with pytest.raises(Postponed):
        h.step(differs=True)


def test_a_worker_that_waits_for_its_broker_is_not_waited_for() -> None:
    h = host(restarting("a@h1", "q", presence="inactive"), "start")
    h.show(active="activating", sub="start", job=True)
    assert h.until("restart")


def test_a_start_of_an_earlier_run_counts() -> None:
    h = host(worker("a@h1", "q", need="start", presence="inactive"), "start")
    h.show(active="activating", sub="start", job=True, pid=10, status="waits for the broker")
    h.until("reconcile")
    h.step(differs=False)
    h.step()
    assert h.restart.line == "starting, waits for the broker"
    h.starts_anew(invocation="old")
    h.ends()
    assert h.restart.outcome == "unneeded"
    assert not any(request.do for request in h.requests)


def test_a_start_of_an_earlier_run_with_other_files_is_repeated() -> None:
    h = host(worker("a@h1", "q", need="start", presence="inactive"), "start")
    h.show(active="activating", sub="auto-restart", pid=0, exit_status=78)
    h.until("reconcile")
    assert h.step(differs=True).do == (("restart", UNIT),)
    h.starts_anew()
    h.step()
    h.ends()
    assert h.restart.outcome == "done"


# -- a second instance -------------------------------------------------------------------------------------


def overlapped_until(step: str) -> Host:
    h = host(overlapped=True)
    prepare = h.until("prepare").do[0][1]
    assert prepare["other_node"] == "a.next@h1"
    assert prepare["other_unit"] == NEXT
    assert h.step().do == (("restart", NEXT),)
    if step == "start":
        return h
    h.starts_anew(NEXT, "n1", 30)
    request = h.until("probe")
    assert probed(request) == {"queues": ["q"], "pid": 30}
    assert list(request.probe) == ["a.next@h1"]
    return h


def test_a_second_instance_is_ready_before_the_first_stops_and_is_removed_after() -> None:
    h = overlapped_until("gate")
    assert not any(("restart", UNIT) in request.do for request in h.requests)
    h.step()
    assert h.until("restart").do == (("restart", UNIT),)
    h.starts_anew()
    while not h.step().probe:
        pass
    assert h.step().do == (("stop", NEXT),)
    h.show(NEXT, active="deactivating", drain={"invocation": "n1", "running": 1, "handed_back": 0})
    h.step()
    h.step()
    assert h.restart.line == (
        "serves after 1.5 s, its second instance is draining, 1 task left, 0 handed back"
    )
    h.show(NEXT, active="inactive")
    last = h.step()
    assert last.do[0][0] == "clear"
    assert last.forget == "a.next@h1"
    h.ends()
    assert {"gate", "stand_in_gate", "started_in", "drained_in"} <= set(h.restart.figures)


@pytest.mark.parametrize("where", ["start", "gate"])
def test_a_second_instance_that_fails_is_removed_and_the_first_stays(
    where: str,
) -> None:
    h = overlapped_until(where)
    if where == "start":
        h.show(NEXT, active="failed", invocation="n1")
        stop = h.step()
    else:
        stop = h.step(errors=("no answer",))
        h.show(NEXT, active="deactivating")
        h.step()
        h.show(NEXT, active="inactive")
    assert stop.do == (("stop", NEXT),)
    assert h.restart.failure, "the failure must be known before all of it is removed"
    clear = h.step()
    assert (clear.do[0][0], clear.forget) == ("clear", "a.next@h1")
    with pytest.raises(TurnError) as error:
        h.step()
    assert error.value is h.restart.failure
    assert error.value.unit == NEXT
    assert not any(("restart", UNIT) in request.do for request in h.requests)


def test_a_second_instance_that_can_t_be_prepared_is_removed_as_well() -> None:
    h = host(overlapped=True)
    h.until("prepare")
    assert h.steps.throw(TurnError("no such file", UNIT)).do == (("stop", NEXT),)


@pytest.mark.parametrize("active", ["active", "activating"])
def test_a_second_instance_of_a_killed_run_is_started_again(active: str) -> None:
    h = host(overlapped=True)
    h.show(NEXT, active=active, invocation="n0", pid=33)
    h.until("prepare")
    assert h.step().do == (("restart", NEXT),)
    h.show(NEXT, job=True)
    h.step()
    h.starts_anew(NEXT, "n1", 34)
    assert probed(h.until("probe"))["pid"] == 34


# -- removals ----------------------------------------------------------------------------------------------


def test_a_removed_worker_drains_and_is_disabled() -> None:
    h = host(worker("a@h1", "q", need="remove"), "remove")
    assert h.until("stop").do == (("stop", UNIT),)
    h.show(active="deactivating", drain={"invocation": "old", "running": 2, "handed_back": 1})
    h.step()
    h.step()
    assert h.restart.line == "draining, 2 tasks left, 1 handed back"
    h.show(active="failed")
    last = h.step()
    assert last.do == (("disable", UNIT),)
    assert last.forget == "a@h1"
    h.ends()
    assert h.restart.figures == {"handed_back": 1}


def test_the_drain_record_of_an_earlier_process_is_ignored_in_a_removal() -> None:
    h = host(worker("a@h1", "q", need="remove"), "remove")
    h.until("stop")
    h.show(active="inactive", drain={"invocation": "older", "running": 0, "handed_back": 9})
    h.step()
    h.ends()
    assert "handed_back" not in h.restart.figures


def test_leftovers_of_a_killed_run_are_removed() -> None:
    left = FleetWorker("a.next@h1", "h1", NEXT, "a.next", ("q",), need="remove")
    h = host(left, "remove")
    assert h.until("stop").do == (("stop", NEXT),)
    h.show(NEXT, active="inactive")
    ((verb, what),) = h.step().do
    assert verb == "clear"
    assert what["other_unit"] == NEXT
    assert what["other_environment"] == "/etc/celery-fleet/shop/worker-a.next.env"
    assert h.requests[-1].forget == "a.next@h1"


# -- a canary ----------------------------------------------------------------------------------------------

LIMITS = CanaryLimits(seconds=60, min_tasks=20)
COUNTS, NEXT_COUNTS = (
    {
        "counts": f"/var/lib/shop/metrics/worker-{name}.json",
        "note": f"/opt/shop/pins/worker-{name}/release.json",
    }
    for name in ("a", "a.next")
)


def found(succeeded: int, failed: int = 0) -> dict[str, Any]:
    counts = {"pay": [succeeded, failed, 0.1 * succeeded, [succeeded, 0]]}
    return {"counts": counts, "bounds": [0.1], "memory": 800, "processes": 2}


def canary(overlapped: bool = True) -> Host:
    """Return a host whose canary serves, at the first look at its figures."""
    h = host(overlapped=overlapped, limits=LIMITS)
    assert h.until("figures").figures == {UNIT: COUNTS}
    h.step(figures={UNIT: found(1000)})
    started = NEXT if overlapped else UNIT
    assert h.until("restart").do == (("restart", started),)
    h.starts_anew(started)
    h.until("probe")
    h.until("figures")
    return h


def observed(h: Host, failed: int) -> None:
    """Let the canary run 100 tasks, of which some fail, while the host is observed for 60 seconds."""
    ran = 0
    for _ in range(100):
        request = h.requests[-1]
        if request.do and h.now[0]:
            return
        if request.figures:
            ran += 1
            share = min(100, 8 * ran)
            figures = {
                unit: found(1000)
                if unit == UNIT
                else found(share - failed * share // 100, failed * share // 100)
                for unit in request.figures
            }
            h.step(figures=figures)
        else:
            h.now[0] += 2.0
            h.step()
    raise AssertionError("the observation does not end")


def test_a_canary_runs_beside_the_old_release_before_it_is_restarted() -> None:
    h = canary()
    assert h.requests[-1].figures == {NEXT: NEXT_COUNTS, UNIT: COUNTS}
    observed(h, failed=1)
    assert 60 <= h.now[0] < 63
    assert h.requests[-1].do == (("restart", UNIT),)
    assert h.restart.figures["canary"]["refusals"] == []
    assert h.restart.figures["canary"]["tasks"] == 80


def test_a_canary_whose_tasks_fail_is_stopped_early_and_the_old_release_is_left_alone() -> None:
    h = canary()
    observed(h, failed=50)
    assert h.now[0] < 30
    assert h.requests[-1].do == (("stop", NEXT),)
    assert h.restart.failure is not None
    assert "is refused as the canary: 5" in str(h.restart.failure)
    assert h.restart.failure.unit == NEXT
    h.show(NEXT, active="inactive", pid=0)
    assert h.step().do[0][0] == "clear"
    with pytest.raises(TurnError, match="refused as the canary"):
        h.step()
    assert ("restart", UNIT) not in [verb for request in h.requests for verb in request.do]


def test_a_canary_that_can_t_be_overlapped_is_observed_after_its_restart() -> None:
    h = canary(overlapped=False)
    assert h.requests[-1].figures == {UNIT: COUNTS}
    while h.now[0] < 58:
        h.now[0] += 2.0
        h.step()
    h.now[0] = 60.0
    h.step()
    with pytest.raises(TurnError, match="could not be judged, because its tasks are not counted"):
        h.step(figures={UNIT: {"counts": None, "memory": 0, "processes": 0}})


def test_a_canary_that_ends_is_refused() -> None:
    h = canary()
    h.step(figures={NEXT: found(0), UNIT: found(1000)})
    h.show(NEXT, invocation="crashed and came back", pid=21)
    h.step()
    assert "ended while it was observed" in str(h.restart.failure)
