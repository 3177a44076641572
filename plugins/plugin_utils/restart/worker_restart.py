"""Steps of one worker's turn: the requests to its host, and how the answers are judged.

A turn is a generator that yields a `HostRequest` and is sent a `HostAnswer`, so it reads like a sequential program. It
never waits or contacts a host itself. So a host's turns can run concurrently, and tests can simulate the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ansible_collections.celery_fleet.core.plugins.module_utils import text
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd

from . import canary
from .order import STAND_IN, FleetWorker, Turn

# Seconds between two looks at the figures of a canary, which writes them every 10 s.
_LOOK = 5.0


@dataclass(frozen=True)
class HostRequest:
    """A request of a turn to its host.

    Attributes:
        do: Verbs and arguments for the script `turn`.
        reconcile: Write the host's files, and say whether the unit still differs. `once` accepts an earlier answer of
            this roll.
        probe: Nodes to send a canary to, in the form of `celery_fleet.ops.probe`.
        forget: A node that was removed permanently.
        figures: Units whose tasks and memory are asked for, each with the files of its counts and its release's note.
    """

    do: tuple[tuple[str, Any], ...] = ()
    reconcile: Literal["", "once", "again"] = ""
    probe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    forget: str = ""
    figures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class HostAnswer:
    """The answer to a request.

    Attributes:
        units: States of the turn's units, from the script `turn`.
        differs: Whether the unit differs from the desired state, if that was requested.
        errors: Errors that the probe found, or its own.
        figures: Figures of the units that were asked for, from the script `turn`.
    """

    units: Mapping[str, Mapping[str, Any]]
    differs: bool = True
    errors: tuple[str, ...] = ()
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class TurnError(Exception):
    """A turn failed; the message is one line about its unit."""

    def __init__(self, message: str, unit: str) -> None:
        super().__init__(message)
        self.unit = unit


class Postponed(Exception):  # noqa: N818 - no error: it is the worker's turn later
    """The worker already serves, so it has to be restarted when the rules allow it."""


@dataclass(frozen=True)
class WorkerPaths:
    """Directories of a worker's files: configuration, releases, state."""

    directory: str
    root: str
    state: str


Steps = Generator[HostRequest, HostAnswer, None]


class WorkerRestart:
    """Carries out one turn.

    Attributes:
        line: Current progress, as text; changing numbers come after the first comma.
        figures: Measurements, in seconds except for `handed_back`.
        outcome: `done` or `unneeded`.
        failure: Error of the turn, as soon as it is certain. The turn may clean up before it raises it.
        forced: Whether a worker restarts even if it does not differ from the inventory.
    """

    def __init__(
        self,
        turn: Turn,
        worker: FleetWorker,
        paths: WorkerPaths,
        *,
        timeout: float,
        tasks: tuple[str, ...] = (),
        forced: bool = False,
        limits: canary.CanaryLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.turn = turn
        self.worker = worker
        self.line = ""
        self.figures: dict[str, Any] = {}
        self.outcome = "done"
        self.failure: TurnError | None = None
        self._paths = paths
        self._timeout = timeout
        self._tasks = tasks
        self.forced = forced
        self._limits = limits if turn.observed else None
        self._clock = clock

    @property
    def units(self) -> dict[str, str]:
        """Return the units to query, each with the directory of its drain record."""
        found = {self.worker.unit: f"{self._paths.state}/worker-{self.worker.name}"}
        if self.turn.overlapped:
            name = self.worker.name + STAND_IN
            found[self._unit(name)] = f"{self._paths.state}/worker-{name}"
        return found

    def steps(self) -> Steps:
        """Yield the requests of the turn from beginning to end.

        Raises:
            TurnError: The turn failed.
            Postponed: The worker has to be restarted later instead.
        """
        waited, unit = yield from self._quiet()
        if self.turn.kind == "remove":
            yield from self._remove(unit)
            return
        seen = yield HostRequest(reconcile="again" if waited else "once")
        unit = self._own(seen)
        needed = seen.differs or self.forced
        if unit["active"] == "activating" and not needed:
            # An earlier run has already begun this start, so wait for the current invocation.
            yield from self._started(self.worker.unit, "", (), "starting")
        if unit["active"] in ("active", "activating") and not needed:
            self.outcome = "unneeded"
            return
        if unit["active"] == "active" and self.turn.kind == "start":
            raise Postponed
        before = canary.Figures()
        if self._limits:
            before = (yield from self._figures(self.worker.unit))[self.worker.unit]
        if self.turn.overlapped:
            seen = yield from self._stand_in(before)
        yield from self._restart(self._own(seen))
        if self.turn.overlapped:
            yield from self._stand_down()
        elif self._limits:
            yield from self._observe(self._limits, self.worker.unit, before)

    # -- steps -----------------------------------------------------------------------------------------

    def _quiet(self) -> Generator[HostRequest, HostAnswer, tuple[bool, Mapping[str, Any]]]:
        """Wait for jobs of an earlier run that systemd is finishing; return whether there were any, and the unit."""
        waited = False
        unit = self._own((yield HostRequest()))
        # Don't wait for a worker that waits for its broker, because its start job lasts equally long.
        while unit["active"] == "deactivating" or (unit["job"] and unit["active"] == "inactive"):
            waited = True
            self.line = f"waits for a job of an earlier run{_tasks_left(unit)}"
            unit = self._own((yield HostRequest()))
        return waited, unit

    def _restart(self, before: Mapping[str, Any]) -> Steps:
        # A start would not change a unit that is already starting.
        fresh = self.worker.need == "start" and before["active"] != "activating"
        order = ("start" if fresh else "restart", self.worker.unit)
        after = yield from self._started(
            self.worker.unit, before["invocation"], (order,), "starting"
        )
        if before["active"] == "active" and after["starting_at"] > after["stopping_at"] > 0:
            self.figures["drained_in"] = round(after["starting_at"] - after["stopping_at"], 3)
            self._note_drain(before, after)
        yield from self._gate(self.worker.node, self.worker.unit, after)
        self.line = f"serves after {self.figures['started_in']:.1f} s"

    def _started(
        self, name: str, old: str, do: tuple[tuple[str, Any], ...], what: str
    ) -> Generator[HostRequest, HostAnswer, Mapping[str, Any]]:
        """Wait until a unit runs with a new invocation. systemd limits the time of a drain."""
        request = HostRequest(do=do)
        deadline: float | None = None
        restarts = 0
        while True:
            asked = self._clock()
            unit = (yield request).units[name]
            request = HostRequest()
            fresh = unit["invocation"] not in ("", old)
            if not fresh:
                self.line = f"draining{_tasks_left(unit)}"
                if not unit["job"] and unit["active"] not in ("deactivating", "activating"):
                    raise TurnError(f"did not start: {described(unit)}", name)
            else:
                if unit["active"] == "active":
                    begun = unit["starting_at"]
                    self.figures.setdefault("started_in", round(unit["ready_at"] - begun, 3))
                    return unit
                if deadline is None:
                    # systemd's counter may include restarts of the previous process.
                    deadline, restarts = self._clock() + self._timeout, unit["restarts"]
                # Ignore the status text of a process that has ended.
                says = f", {unit['status']}" if unit["status"] and unit["pid"] else ""
                self.line = f"{what}{says}"
                tries = unit["restarts"] - restarts
                hopeless = systemd.hopeless(unit["active"], unit["sub"], unit["exit_status"])
                if hopeless or tries > systemd.RESTARTS_TOLERATED:
                    raise TurnError(f"does not start: {described(unit)}", name)
                # The answer may be old, because the host's turns wait for the canaries of one another.
                if asked > deadline:
                    raise TurnError(
                        f"does not consume within {self._timeout:.0f} s: {described(unit)}", name
                    )

    def _gate(
        self, node: str, name: str, unit: Mapping[str, Any]
    ) -> Generator[HostRequest, HostAnswer, HostAnswer]:
        self.line = "sending a canary"
        begin = self._clock()
        request: dict[str, Any] = {"queues": list(self.worker.queues), "pid": unit["pid"]}
        if self._tasks:
            request["tasks"] = list(self._tasks)
        seen = yield HostRequest(probe={node: request})
        if seen.errors:
            raise TurnError("; ".join(seen.errors), name)
        self.figures["gate"] = round(self._clock() - begin, 3)
        return seen

    def _stand_in(self, before: canary.Figures) -> Generator[HostRequest, HostAnswer, HostAnswer]:
        """Start a second instance under another name, which serves before the first one stops, and observe a canary."""
        name = self._unit(self.worker.name + STAND_IN)
        what = "starting a second instance"
        node = f"{self.worker.name}{STAND_IN}@{self.worker.host}"
        try:
            seen = yield HostRequest(do=(("prepare", self._files()),))
            # Restart, because a second instance from an earlier run has old files. This also starts a stopped one.
            old = seen.units[name]["invocation"]
            unit = yield from self._started(name, old, (("restart", name),), what)
            seen = yield from self._gate(node, name, unit)
            if self._limits:
                seen = yield from self._observe(self._limits, name, before)
        except TurnError as error:
            # Blame the second instance: the worker itself was not touched.
            error.unit = name
            self.failure = error
            self.line = "is not restarted"
            yield from self._stand_down()
            raise
        self.line = "a second instance serves"
        observed = {"canary": self.figures["canary"]} if self._limits else {}
        self.figures = {"stand_in_gate": self.figures["gate"], **observed}
        return seen

    def _figures(
        self, *units: str
    ) -> Generator[HostRequest, HostAnswer, dict[str, canary.Figures]]:
        paths = self._paths
        files = {
            unit: {
                "counts": f"{paths.state}/metrics/worker-{_name(unit)}.json",
                "note": f"{paths.root}/pins/worker-{_name(unit)}/release.json",
            }
            for unit in units
        }
        seen = yield HostRequest(figures=files)
        return {unit: canary.figures(seen.figures.get(unit)) for unit in units}

    def _observe(
        self, limits: canary.CanaryLimits, name: str, before: canary.Figures
    ) -> Generator[HostRequest, HostAnswer, HostAnswer]:
        """Compare a unit that runs the new release with the old one for some time."""
        units = [name] if name == self.worker.unit else [name, self.worker.unit]
        begin, looked = self._clock(), float("-inf")
        seen = yield HostRequest()
        invocation = seen.units[name]["invocation"]
        observation = canary.Observation(limits, before)
        while True:
            passed = self._clock() - begin
            if passed - looked >= _LOOK or passed >= limits.seconds:
                found = yield from self._figures(*units)
                observation.add(passed, found[name], found.get(units[1]) if units[1:] else None)
                looked = passed
            if passed >= limits.seconds or observation.failing():
                break
            self.line = f"observing the canary, {text.count(observation.tasks, 'task')} so far"
            seen = yield HostRequest()
            unit = seen.units[name]
            if unit["active"] != "active" or unit["invocation"] != invocation:
                raise TurnError(f"ended while it was observed: {described(unit)}", name)
        verdict = observation.verdict()
        self.figures["canary"] = verdict.as_dict()
        if verdict.refusals:
            raise TurnError(f"is refused as the canary: {'; '.join(verdict.refusals)}", name)
        self.line = f"passed as the canary, {'; '.join(verdict.figures)}"
        return (yield HostRequest())

    def _stand_down(self) -> Steps:
        name = self._unit(self.worker.name + STAND_IN)
        said = self.line
        unit = (yield HostRequest(do=(("stop", name),))).units[name]
        while unit["active"] not in ("inactive", "failed"):
            self.line = f"{said}, its second instance is draining{_tasks_left(unit)}"
            unit = (yield HostRequest()).units[name]
        node = f"{self.worker.name}{STAND_IN}@{self.worker.host}"
        yield HostRequest(do=(("clear", self._files()),), forget=node)
        self.line = said

    def _remove(self, before: Mapping[str, Any]) -> Steps:
        name = self.worker.unit
        unit = self._own((yield HostRequest(do=(("stop", name),))))
        while unit["active"] not in ("inactive", "failed"):
            self.line = f"draining{_tasks_left(unit)}"
            unit = self._own((yield HostRequest()))
        self._note_drain(before, unit)
        if self.worker.name.endswith(STAND_IN):
            order = HostRequest(do=(("clear", self._files()),), forget=self.worker.node)
        else:
            order = HostRequest(do=(("disable", name),), forget=self.worker.node)
        yield order
        self.line = "is gone"

    # -- small helpers ---------------------------------------------------------------------------------

    def _note_drain(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Record how many tasks the previous process has handed back, unless the drain record is older than it."""
        drain = after["drain"]
        if drain and drain["invocation"] == before["invocation"] != "":
            self.figures["handed_back"] = drain["handed_back"]

    def _own(self, seen: HostAnswer) -> Mapping[str, Any]:
        return seen.units[self.worker.unit]

    def _unit(self, name: str) -> str:
        return self.worker.unit.replace(f"@{self.worker.name}.", f"@{name}.")

    def _files(self) -> dict[str, str]:
        """Return the arguments of `prepare` and `clear`."""
        name = self.worker.name.removesuffix(STAND_IN)
        other = name + STAND_IN
        paths = self._paths
        return {
            "node": f"{name}@{self.worker.host}",
            "other_node": f"{other}@{self.worker.host}",
            "unit": self._unit(name),
            "other_unit": self._unit(other),
            "environment": f"{paths.directory}/worker-{name}.env",
            "other_environment": f"{paths.directory}/worker-{other}.env",
            "pin": f"{paths.root}/pins/worker-{name}",
            "other_pin": f"{paths.root}/pins/worker-{other}",
            "other_state": f"{paths.state}/worker-{other}",
        }


def described(unit: Mapping[str, Any]) -> str:
    """Return one line with state, result and the daemon's own status text."""
    words = f"it is {unit['active']} ({unit['sub']}"
    if unit["result"] not in ("success", ""):
        words += f", result {unit['result']}, exit status {unit['exit_status']}"
    if unit["restarts"]:
        words += f", restarted {unit['restarts']} times"
    words += ")"
    if unit["status"] and unit["pid"]:
        words += f" and says “{unit['status']}”"
    return words


def _name(unit: str) -> str:
    """Return the name of a worker from its unit."""
    return unit.partition("@")[2].removesuffix(".service")


def _tasks_left(unit: Mapping[str, Any]) -> str:
    """Return the progress of a drain, from its record."""
    drain = unit["drain"]
    if not drain or drain["invocation"] != unit["invocation"]:
        return ""
    left = drain["running"]
    return f", {left} {'task' if left == 1 else 'tasks'} left, {drain['handed_back']} handed back"
