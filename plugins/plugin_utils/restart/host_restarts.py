"""Carries out a host's turns in a roll: concurrently, step by step, as the shared state allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from .order import FleetWorker, Kind, Turn
from .state import RollState
from .worker_restart import HostAnswer, HostRequest, Postponed, Steps, TurnError, WorkerRestart

# Seconds between two reads of the shared state, between two lines about a turn, and for which the host waits for a
# change.
_ASK, _SAY, _WAIT = 0.25, 5.0, 1.0
# How often to query a host again if its systemd did not answer.
_RETRIES = 2


class HostRestartError(UserError):
    """Turns of this host failed. The message is for users."""


class ConnectionLostError(Exception):
    """The connection to the host was lost."""


class ReconcileFailedError(Exception):
    """The host's files could not be brought to the desired state."""


class HostConnection(Protocol):
    """Operations on one host. Every method may raise `ConnectionLostError`."""

    def move(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run the script `turn` on the host."""

    def reconcile(self) -> frozenset[str]:
        """Write the host's files; return the units that differ from the desired state."""

    def probe(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run `celery_fleet.ops.probe` on the host."""

    def say(self, line: str) -> None:
        """Show a line of progress."""

    def warn(self, line: str) -> None:
        """Show a warning."""


@dataclass
class _Running:
    restart: WorkerRestart
    steps: Steps
    request: HostRequest
    since: float
    said: str = ""
    said_at: float = 0.0
    acted: bool = False
    messages: list[str] = field(default_factory=list)


@dataclass
class HostRestarts:
    """Carries out the turns of one host.

    Attributes:
        host: Inventory name.
        state: Shared state of the roll.
        connection: Operations on the host.
        new_restart: Creates the steps of one turn.
        canary_timeout: Seconds that a canary may take.
        trouble: Returns why no more turns may begin, for reasons outside of the shared state; empty if there are none.
            If it raises `HostRestartError`, everything ends at once.
    """

    host: str
    state: RollState
    connection: HostConnection
    new_restart: Callable[[Turn, FleetWorker], WorkerRestart]
    canary_timeout: float
    trouble: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _running: dict[str, _Running] = field(default_factory=dict)
    _differing: frozenset[str] | None = None
    _stopped: str = ""
    _seen: Mapping[str, Any] = field(default_factory=dict)

    def take_turns(self, kind: Kind) -> int:
        """Carry out all turns of a kind on this host; return their number.

        Raises:
            HostRestartError: Some turns failed, or the connection was lost. The other running turns have ended.
        """
        taken = 0
        failures: list[str] = []
        try:
            while True:
                for turn in self._begin(kind):
                    restart = self.new_restart(turn, self.state.worker(turn.node))
                    steps = restart.steps()
                    self._running[turn.node] = _Running(restart, steps, next(steps), self.clock())
                    taken += 1
                if self._running:
                    failures += self._go_on()
                elif self.state.failure or not self.state.waiting(self.host, kind):
                    break
                else:
                    self.sleep(_ASK)
        except ConnectionLostError as error:
            failures += [text for entry in self._running.values() for text in entry.messages]
            failures.append(self._lost(error))
        failures += [self._stopped] if self._stopped else []
        if failures:
            raise HostRestartError("\n\n".join(failures))
        return taken

    def _begin(self, kind: Kind) -> list[Turn]:
        self._check_trouble()
        # This also shows the other hosts that this one is alive.
        return self.state.begin(self.host, kind)

    def _check_trouble(self) -> str:
        """Return why no more turns may begin. Another host may have reported the same before."""
        trouble = self.trouble()
        if not trouble:
            return ""
        trouble = f"{self.host}: {trouble}; no more workers begin"
        if not self.state.failure:
            self._stopped = trouble
            self.state.fail(self.host, trouble)
        return trouble

    def _go_on(self) -> list[str]:
        """Advance every running turn by one step; return the failures."""
        try:
            self._reconcile([entry.request for entry in self._running.values()])
        except ReconcileFailedError as error:
            message = f"{self.host}: {error}"
            self._give_up(list(self._running), message)
            return [message]
        # Reconciling takes a while, and the next steps act on units, so check again.
        if stopped := self._check_trouble():
            untouched = [node for node, entry in self._running.items() if not entry.acted]
            self._give_up(untouched, stopped)
        requests = [entry.request for entry in self._running.values()]
        if not requests:
            return []
        moved = self._move(requests)
        probed = self._probe(requests)
        verdicts = iter(moved["errors"])
        failures = []
        for node, entry in list(self._running.items()):
            restart, unit = entry.restart, entry.restart.worker.unit
            refused = [text for _ in entry.request.do if (text := next(verdicts))]
            entry.acted |= bool(entry.request.do)
            seen = HostAnswer(
                moved["units"],
                differs=self._differing is None or unit in self._differing,
                errors=tuple(
                    wrong for asked in entry.request.probe for wrong in _wrong(probed, asked)
                ),
                figures=moved.get("figures", {}),
            )
            try:
                # Raise it inside the turn, which may have to clean up.
                entry.request = (
                    entry.steps.throw(TurnError("; ".join(refused) or moved["error"], unit))
                    if refused or moved["error"]
                    else entry.steps.send(seen)
                )
                self._say(entry)
                if restart.failure and not entry.messages:
                    self._fail(entry, restart.failure)
            except StopIteration:
                self._say(entry)
                self.state.end(node, restart.outcome, restart.figures)
                del self._running[node]
            except Postponed:
                self.state.postpone(node)
                del self._running[node]
            except TurnError as error:
                if error is not restart.failure:
                    self._fail(entry, error)
                failures += entry.messages
                self._give_up([node], entry.messages[0])
        return failures

    def _fail(self, entry: _Running, error: TurnError) -> None:
        """Record a failure at once, so that no other turn begins while this one cleans up."""
        entry.messages.append(self._message(entry.restart, error))
        self.state.fail(self.host, entry.messages[-1])

    # -- carrying out requests ---------------------------------------------------------------------------

    def _reconcile(self, requests: list[HostRequest]) -> None:
        asked = {request.reconcile for request in requests}
        if "again" in asked or ("once" in asked and self._differing is None):
            self._differing = self.connection.reconcile()

    def _move(self, requests: list[HostRequest]) -> dict[str, Any]:
        idle = not any(
            request.do or request.reconcile or request.probe or request.figures
            for request in requests
        )
        units: dict[str, str] = {}
        for entry in self._running.values():
            units.update(entry.restart.units)
        question = {
            "do": [step for request in requests for step in request.do],
            "units": units,
            "seen": self._seen if idle else {},
            "wait": _WAIT if idle else 0,
            "journals": [],
            "figures": {unit: files for asked in requests for unit, files in asked.figures.items()},
        }
        answer = self.connection.move(question)
        errors = answer["errors"]
        for _ in range(_RETRIES):
            if not answer["error"]:
                break
            self.sleep(_WAIT)
            answer = self.connection.move({**question, "do": []})
        self._seen = answer["units"]
        return {**answer, "errors": errors}

    def _probe(self, requests: list[HostRequest]) -> Mapping[str, Any]:
        gone = [request.forget for request in requests if request.forget]
        if gone:
            answer = self.connection.probe({"forget": gone, "timeout": 10})
            for trouble in answer.get("errors", []):
                self.connection.warn(f"the data of {', '.join(gone)} stays in Redis: {trouble}")
        nodes = {name: asked for request in requests for name, asked in request.probe.items()}
        return (
            self.connection.probe({"nodes": nodes, "timeout": self.canary_timeout}) if nodes else {}
        )

    # -- output ----------------------------------------------------------------------------------------

    def _say(self, entry: _Running) -> None:
        """Show a line when a new stage begins, and every few seconds while numbers change."""
        line, now = entry.restart.line, self.clock()
        stage, before = line.split(",")[0], entry.said.split(",")[0]
        if not line or (stage == before and now - entry.said_at < _SAY):
            return
        if stage != before:
            entry.since = now
        seconds = f", {now - entry.since:.0f} s" if now - entry.since >= 1 else ""
        self.connection.say(
            f"{self.host}  {entry.restart.worker.unit.removesuffix('.service')}  {line}{seconds}"
        )
        entry.said, entry.said_at = line, now

    def _message(self, restart: WorkerRestart, error: TurnError) -> str:
        request = {"do": [], "units": {}, "seen": {}, "wait": 0, "journals": [error.unit]}
        journal = self.connection.move(request)["journals"].get(error.unit, "")
        lines = [f"{self.host}: {error.unit} {error}."]
        if journal:
            lines += ["The last lines of its journal:", *(f"  {x}" for x in journal.splitlines())]
        worker = restart.worker
        for queue, nodes in self.state.consumers(worker.queues).items():
            rest = [node for node in nodes if node != worker.node]
            if restart.turn.overlapped and error.unit != worker.unit:
                rest.append(f"{worker.node}, which was not touched")
            elif restart.turn.overlapped:
                rest.append("its second instance")
            lines.append(
                f"Queue {queue} is consumed by {', '.join(rest)}."
                if rest
                else f"No worker consumes queue {queue}."
            )
        again = (
            "it restarts all workers once more, unless you name those that are left with -e celery_restart_workers="
            if restart.forced
            else "it continues where this run stopped"
        )
        lines.append(
            f"No other worker was restarted. Next, on {self.host}: journalctl -u {error.unit} -n 100. Once the cause "
            f"is gone, run the same command again: {again}."
        )
        return "\n".join(lines)

    def _lost(self, error: ConnectionLostError) -> str:
        nodes = " and ".join(sorted(self._running)) or "no worker"
        message = (
            f"{self.host}: the connection was lost during the turn of {nodes} ({error}). If the host is still running, "
            "systemd finishes the jobs there. Run the same command again once the host is back: it waits for these "
            "jobs and does the rest."
        )
        self._give_up(list(self._running), message)
        return message

    def _give_up(self, nodes: list[str], message: str) -> None:
        self.state.fail(self.host, message)
        for node in nodes:
            self.state.end(node, "failed", self._running.pop(node).restart.figures)


def _wrong(answer: Mapping[str, Any], node: str) -> list[str]:
    """Return the probe's errors for a node."""
    found = answer["nodes"].get(node)
    if found is None:
        return [str(error) for error in answer["errors"]] or ["the probe returned nothing about it"]
    if found["ok"]:
        return []
    return [str(error) for error in found["errors"] or answer["errors"] or [found["state"]]]
