"""One worker's turn, step by step: what is asked of its host, and what is made of the answers.

A turn is a generator: it yields an `Order`, is sent an `Observed`, and so reads as what happens. It never waits and
asks nobody itself, so that a host's turns go side by side and a test can play the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    STAND_IN,
    Turn,
    Worker,
)


@dataclass(frozen=True)
class Order:
    """What a turn asks of its host.

    Attributes:
        do: Verbs and arguments for the script `turn`.
        settle: Write the host's files, and say whether the unit still differs: `once` is content with an answer of
            earlier in this roll.
        probe: Nodes to send a canary to, as `celery_fleet.ops.probe` takes them.
        forget: A node that is gone for good.
    """

    do: tuple[tuple[str, Any], ...] = ()
    settle: Literal["", "once", "again"] = ""
    probe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    forget: str = ""


@dataclass(frozen=True)
class Observed:
    """What came of it.

    Attributes:
        units: How far the turn's units are, as the script `turn` has it.
        differs: Whether the unit differs from what is wanted, where that was asked.
        errors: What the probe found wrong, or what kept it from working.
    """

    units: Mapping[str, Mapping[str, Any]]
    differs: bool = True
    errors: tuple[str, ...] = ()


class TurnError(Exception):
    """A turn failed; the message is one line about its unit."""

    def __init__(self, message: str, unit: str) -> None:
        super().__init__(message)
        self.unit = unit


class Postponed(Exception):  # noqa: N818 - no error: it is the worker's turn later
    """The worker serves after all, so it has to be restarted when the rules allow it."""


@dataclass(frozen=True)
class Place:
    """Where a worker's files lie: directory of the configuration, of the releases, of the state."""

    directory: str
    root: str
    state: str


Steps = Generator[Order, Observed, None]


class Steward:
    """Carries out one turn.

    Attributes:
        line: What is going on, for a person; what changes by itself stands behind the first comma.
        figures: What was measured, in seconds but for `handed_back`.
        outcome: `done` or `unneeded`.
        failure: What the turn fails with, as soon as that is certain; it may clean up before it raises it.
    """

    def __init__(
        self,
        turn: Turn,
        worker: Worker,
        place: Place,
        *,
        timeout: float,
        tasks: tuple[str, ...] = (),
        forced: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.turn = turn
        self.worker = worker
        self.line = ""
        self.figures: dict[str, Any] = {}
        self.outcome = "done"
        self.failure: TurnError | None = None
        self._place = place
        self._timeout = timeout
        self._tasks = tasks
        self._forced = forced
        self._clock = clock

    @property
    def units(self) -> dict[str, str]:
        """Units to look at, each with the directory of its drain's record."""
        found = {self.worker.unit: f"{self._place.state}/worker-{self.worker.name}"}
        if self.turn.overlapped:
            name = self.worker.name + STAND_IN
            found[self._unit(name)] = f"{self._place.state}/worker-{name}"
        return found

    def steps(self) -> Steps:
        """The turn, from its begin to its end.

        Raises:
            TurnError: What it was to bring about did not come.
            Postponed: It is not the time for it.
        """
        waited, unit = yield from self._quiet()
        if self.turn.kind == "remove":
            yield from self._remove(unit)
            return
        seen = yield Order(settle="again" if waited else "once")
        unit = self._own(seen)
        needed = seen.differs or self._forced
        if unit["active"] == "activating" and not needed:
            # An earlier run has begun just this start: the invocation that is under way is the one to wait for.
            yield from self._started(self.worker.unit, "", (), "starting")
        if unit["active"] in ("active", "activating") and not needed:
            self.outcome = "unneeded"
            return
        if unit["active"] == "active" and self.turn.kind == "start":
            raise Postponed
        if self.turn.overlapped:
            seen = yield from self._stand_in()
        yield from self._restart(self._own(seen))
        if self.turn.overlapped:
            yield from self._stand_down()

    # -- steps -----------------------------------------------------------------------------------------

    def _quiet(self) -> Generator[Order, Observed, tuple[bool, Mapping[str, Any]]]:
        """Wait for what an earlier run began, and systemd ends without it. Whether there was any, and the unit."""
        waited = False
        unit = self._own((yield Order()))
        # A worker that waits for its broker has a start job for as long as that takes: it is not waited for.
        while unit["active"] == "deactivating" or (unit["job"] and unit["active"] == "inactive"):
            waited = True
            self.line = f"waits for what an earlier run began{_tasks_left(unit)}"
            unit = self._own((yield Order()))
        return waited, unit

    def _restart(self, before: Mapping[str, Any]) -> Steps:
        # To start what starts already would change nothing.
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
    ) -> Generator[Order, Observed, Mapping[str, Any]]:
        """Until a unit runs with another invocation than the old one; systemd bounds the time that a drain takes."""
        unit = (yield Order(do=do)).units[name]
        deadline: float | None = None
        restarts = 0
        while True:
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
                now = self._clock()
                if deadline is None:
                    # systemd may go on counting from the process before, whose restarts are not this one's.
                    deadline, restarts = now + self._timeout, unit["restarts"]
                # The status of a process that has ended is none.
                says = f", {unit['status']}" if unit["status"] and unit["pid"] else ""
                self.line = f"{what}{says}"
                tries = unit["restarts"] - restarts
                hopeless = systemd.hopeless(unit["active"], unit["sub"], unit["exit_status"])
                if hopeless or tries > systemd.RESTARTS_TOLERATED:
                    raise TurnError(f"does not start: {described(unit)}", name)
                if now > deadline:
                    raise TurnError(
                        f"does not consume within {self._timeout:.0f} s: {described(unit)}", name
                    )
            unit = (yield Order()).units[name]

    def _gate(
        self, node: str, name: str, unit: Mapping[str, Any]
    ) -> Generator[Order, Observed, Observed]:
        self.line = "sending a canary"
        begin = self._clock()
        request: dict[str, Any] = {"queues": list(self.worker.queues), "pid": unit["pid"]}
        if self._tasks:
            request["tasks"] = list(self._tasks)
        seen = yield Order(probe={node: request})
        if seen.errors:
            raise TurnError("; ".join(seen.errors), name)
        self.figures["gate"] = round(self._clock() - begin, 3)
        return seen

    def _stand_in(self) -> Generator[Order, Observed, Observed]:
        """A second instance under another name, which serves before the first one stops."""
        name = self._unit(self.worker.name + STAND_IN)
        what = "starting a second instance"
        node = f"{self.worker.name}{STAND_IN}@{self.worker.host}"
        try:
            seen = yield Order(do=(("prepare", self._files()),))
            # What an earlier run has left behind runs with other files; what does not run is started by that as well.
            old = seen.units[name]["invocation"]
            unit = yield from self._started(name, old, (("restart", name),), what)
            seen = yield from self._gate(node, name, unit)
        except TurnError as error:
            # Whatever it was about: the worker itself was not touched.
            error.unit = name
            self.failure = error
            self.line = "is not restarted"
            yield from self._stand_down()
            raise
        self.line = "a second instance serves"
        self.figures = {"stand_in_gate": self.figures["gate"]}
        return seen

    def _stand_down(self) -> Steps:
        name = self._unit(self.worker.name + STAND_IN)
        said = self.line
        unit = (yield Order(do=(("stop", name),))).units[name]
        while unit["active"] not in ("inactive", "failed"):
            self.line = f"{said}, its second instance is draining{_tasks_left(unit)}"
            unit = (yield Order()).units[name]
        node = f"{self.worker.name}{STAND_IN}@{self.worker.host}"
        yield Order(do=(("clear", self._files()),), forget=node)
        self.line = said

    def _remove(self, before: Mapping[str, Any]) -> Steps:
        name = self.worker.unit
        unit = self._own((yield Order(do=(("stop", name),))))
        while unit["active"] not in ("inactive", "failed"):
            self.line = f"draining{_tasks_left(unit)}"
            unit = self._own((yield Order()))
        self._note_drain(before, unit)
        if self.worker.name.endswith(STAND_IN):
            order = Order(do=(("clear", self._files()),), forget=self.worker.node)
        else:
            order = Order(do=(("disable", name),), forget=self.worker.node)
        yield order
        self.line = "is gone"

    # -- small helpers ---------------------------------------------------------------------------------

    def _note_drain(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """What the process before has handed back; the record may be that of an older one."""
        drain = after["drain"]
        if drain and drain["invocation"] == before["invocation"] != "":
            self.figures["handed_back"] = drain["handed_back"]

    def _own(self, seen: Observed) -> Mapping[str, Any]:
        return seen.units[self.worker.unit]

    def _unit(self, name: str) -> str:
        return self.worker.unit.replace(f"@{self.worker.name}.", f"@{name}.")

    def _files(self) -> dict[str, str]:
        """What `prepare` and `clear` want to know."""
        name = self.worker.name.removesuffix(STAND_IN)
        other = name + STAND_IN
        place = self._place
        return {
            "node": f"{name}@{self.worker.host}",
            "other_node": f"{other}@{self.worker.host}",
            "unit": self.worker.unit.replace(f"@{self.worker.name}.", f"@{name}."),
            "other_unit": self._unit(other),
            "environment": f"{place.directory}/worker-{name}.env",
            "other_environment": f"{place.directory}/worker-{other}.env",
            "pin": f"{place.root}/pins/worker-{name}",
            "other_pin": f"{place.root}/pins/worker-{other}",
            "other_state": f"{place.state}/worker-{other}",
        }


def described(unit: Mapping[str, Any]) -> str:
    """One line for a person: state, result and the daemon's own words."""
    text = f"it is {unit['active']} ({unit['sub']}"
    if unit["result"] not in ("success", ""):
        text += f", result {unit['result']}, exit status {unit['exit_status']}"
    if unit["restarts"]:
        text += f", restarted {unit['restarts']} times"
    text += ")"
    if unit["status"] and unit["pid"]:
        text += f" and says “{unit['status']}”"
    return text


def _tasks_left(unit: Mapping[str, Any]) -> str:
    """How far a drain is, in the worker's own words or from its record."""
    drain = unit["drain"]
    if not drain or drain["invocation"] != unit["invocation"]:
        return ""
    left = drain["running"]
    return f", {left} {'task' if left == 1 else 'tasks'} left, {drain['handed_back']} handed back"
