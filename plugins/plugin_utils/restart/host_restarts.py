"""A host's part in a roll: takes its turns as the book allows, side by side, and carries them out step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    Kind,
    Turn,
    Worker,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.state import Ledger
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.worker_restart import (
    Observed,
    Order,
    Postponed,
    Steps,
    Steward,
    TurnError,
)

# Seconds between two looks into the book, between two lines about a turn, and that the host waits for a change.
_ASK, _SAY, _WAIT = 0.25, 5.0, 1.0
# How often a look is taken again at a host whose systemd did not answer.
_RETRIES = 2


class CrewError(UserError):
    """Turns of this host have failed; the message is for the person who runs the play."""


class LostError(Exception):
    """The host can't be reached any more."""


class SettleFailedError(Exception):
    """The host's files could not be settled."""


class Hands(Protocol):
    """What reaches the host; any of it may raise `LostError`."""

    def move(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the script `turn`."""

    def settle(self) -> frozenset[str]:
        """Write the host's files; units that differ from what is wanted."""

    def probe(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask `celery_fleet.ops.probe`."""

    def say(self, line: str) -> None:
        """Tell whoever watches."""

    def warn(self, line: str) -> None:
        """Tell what is no failure and yet wrong."""


@dataclass
class _Running:
    steward: Steward
    steps: Steps
    order: Order
    since: float
    said: str = ""
    said_at: float = 0.0
    acted: bool = False
    messages: list[str] = field(default_factory=list)


@dataclass
class Crew:
    """Carries out the turns of one host.

    Attributes:
        host: Inventory name.
        book: The roll's.
        hands: What reaches the host.
        steward: Makes what carries out a turn.
        canary_timeout: Seconds that the probe of a gate may take.
        trouble: Why nothing may begin any more, apart from the book; empty while all is well. A `CrewError` of it ends
            everything at once.
    """

    host: str
    book: Ledger
    hands: Hands
    steward: Callable[[Turn, Worker], Steward]
    canary_timeout: float
    trouble: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _running: dict[str, _Running] = field(default_factory=dict)
    _differing: frozenset[str] | None = None
    _stopped: str = ""
    _seen: Mapping[str, Any] = field(default_factory=dict)

    def take_turns(self, kind: Kind) -> int:
        """All turns of a kind that this host has; how many there were.

        Raises:
            CrewError: Some of them failed, or the host was lost. The others under way have ended.
        """
        taken = 0
        failures: list[str] = []
        try:
            while True:
                for turn in self._begin(kind):
                    steward = self.steward(turn, self.book.worker(turn.node))
                    steps = steward.steps()
                    self._running[turn.node] = _Running(steward, steps, next(steps), self.clock())
                    taken += 1
                if self._running:
                    failures += self._go_on()
                elif self.book.failure or not self.book.waiting(self.host, kind):
                    break
                else:
                    self.sleep(_ASK)
        except LostError as error:
            failures += [text for entry in self._running.values() for text in entry.messages]
            failures.append(self._lost(error))
        failures += [self._stopped] if self._stopped else []
        if failures:
            raise CrewError("\n\n".join(failures))
        return taken

    def _begin(self, kind: Kind) -> list[Turn]:
        self._heed()
        # Whoever still has turns under way is heard of by that.
        return self.book.begin(self.host, kind)

    def _heed(self) -> str:
        """Why nothing may begin any more; other hosts may have told the same before."""
        trouble = self.trouble()
        if not trouble:
            return ""
        trouble = f"{self.host}: {trouble}; nothing more begins"
        if not self.book.failure:
            self._stopped = trouble
            self.book.fail(self.host, trouble)
        return trouble

    def _go_on(self) -> list[str]:
        """One step of every turn under way; what failed of them."""
        try:
            self._settle([entry.order for entry in self._running.values()])
        except SettleFailedError as error:
            message = f"{self.host}: {error}"
            self._give_up(list(self._running), message)
            return [message]
        # Settling takes its time, and what comes now acts.
        if stopped := self._heed():
            untouched = [node for node, entry in self._running.items() if not entry.acted]
            self._give_up(untouched, stopped)
        orders = [entry.order for entry in self._running.values()]
        if not orders:
            return []
        moved = self._move(orders)
        probed = self._probe(orders)
        verdicts = iter(moved["errors"])
        failures = []
        for node, entry in list(self._running.items()):
            steward, unit = entry.steward, entry.steward.worker.unit
            refused = [text for _ in entry.order.do if (text := next(verdicts))]
            entry.acted |= bool(entry.order.do)
            seen = Observed(
                moved["units"],
                differs=self._differing is None or unit in self._differing,
                errors=tuple(
                    wrong for asked in entry.order.probe for wrong in _wrong(probed, asked)
                ),
            )
            try:
                # Within the turn, which may have something to clean up.
                entry.order = (
                    entry.steps.throw(TurnError("; ".join(refused) or moved["error"], unit))
                    if refused or moved["error"]
                    else entry.steps.send(seen)
                )
                self._say(entry)
                if steward.failure and not entry.messages:
                    self._fail(entry, steward.failure)
            except StopIteration:
                self._say(entry)
                self.book.end(node, steward.outcome, steward.figures)
                del self._running[node]
            except Postponed:
                self.book.postpone(node)
                del self._running[node]
            except TurnError as error:
                if error is not steward.failure:
                    self._fail(entry, error)
                failures += entry.messages
                self._give_up([node], entry.messages[0])
        return failures

    def _fail(self, entry: _Running, error: TurnError) -> None:
        """At once, so that nobody begins while the turn still cleans up."""
        entry.messages.append(self._message(entry.steward, error))
        self.book.fail(self.host, entry.messages[-1])

    # -- what orders become ----------------------------------------------------------------------------

    def _settle(self, orders: list[Order]) -> None:
        asked = {order.settle for order in orders}
        if "again" in asked or ("once" in asked and self._differing is None):
            self._differing = self.hands.settle()

    def _move(self, orders: list[Order]) -> dict[str, Any]:
        idle = not any(order.do or order.settle or order.probe for order in orders)
        units: dict[str, str] = {}
        for entry in self._running.values():
            units.update(entry.steward.units)
        request = {
            "do": [step for order in orders for step in order.do],
            "units": units,
            "seen": self._seen if idle else {},
            "wait": _WAIT if idle else 0,
            "journals": [],
        }
        answer = self.hands.move(request)
        errors = answer["errors"]
        for _ in range(_RETRIES):
            if not answer["error"]:
                break
            self.sleep(_WAIT)
            answer = self.hands.move({**request, "do": []})
        self._seen = answer["units"]
        return {**answer, "errors": errors}

    def _probe(self, orders: list[Order]) -> Mapping[str, Any]:
        gone = [order.forget for order in orders if order.forget]
        if gone:
            answer = self.hands.probe({"forget": gone, "timeout": 10})
            for trouble in answer.get("errors", []):
                self.hands.warn(f"what Redis knows of {', '.join(gone)} stays there: {trouble}")
        nodes = {name: request for order in orders for name, request in order.probe.items()}
        return self.hands.probe({"nodes": nodes, "timeout": self.canary_timeout}) if nodes else {}

    # -- what is said ----------------------------------------------------------------------------------

    def _say(self, entry: _Running) -> None:
        """A line where something new happens, and every few seconds where numbers change."""
        line, now = entry.steward.line, self.clock()
        stage, before = line.split(",")[0], entry.said.split(",")[0]
        if not line or (stage == before and now - entry.said_at < _SAY):
            return
        if stage != before:
            entry.since = now
        seconds = f", {now - entry.since:.0f} s" if now - entry.since >= 1 else ""
        self.hands.say(
            f"{self.host}  {entry.steward.worker.unit.removesuffix('.service')}  {line}{seconds}"
        )
        entry.said, entry.said_at = line, now

    def _message(self, steward: Steward, error: TurnError) -> str:
        request = {"do": [], "units": {}, "seen": {}, "wait": 0, "journals": [error.unit]}
        journal = self.hands.move(request)["journals"].get(error.unit, "")
        lines = [f"{self.host}: {error.unit} {error}."]
        if journal:
            lines += ["The last lines of its journal:", *(f"  {x}" for x in journal.splitlines())]
        worker = steward.worker
        for queue, nodes in self.book.consumers(worker.queues).items():
            rest = [node for node in nodes if node != worker.node]
            if steward.turn.overlapped and error.unit != worker.unit:
                rest.append(f"{worker.node}, which was not touched")
            elif steward.turn.overlapped:
                rest.append("its second instance")
            lines.append(
                f"Queue {queue} is consumed by {', '.join(rest)}."
                if rest
                else f"Nobody consumes queue {queue}."
            )
        lines.append(
            f"No other worker begins. Next, on {self.host}: journalctl -u {error.unit} -n 100. Once the cause is gone, "
            "run the same command again: it goes on where this one ended."
        )
        return "\n".join(lines)

    def _lost(self, error: LostError) -> str:
        whose = " and ".join(sorted(self._running)) or "no worker"
        message = (
            f"{self.host}: the connection was lost during the turn of {whose} ({error}). Where the host still runs, "
            "what was begun there ends without Ansible. Run the same command again once it is back: it waits for what "
            "was begun and finishes the rest."
        )
        self._give_up(list(self._running), message)
        return message

    def _give_up(self, nodes: list[str], message: str) -> None:
        self.book.fail(self.host, message)
        for node in nodes:
            self.book.end(node, "failed", self._running.pop(node).steward.figures)


def _wrong(answer: Mapping[str, Any], node: str) -> list[str]:
    """What the probe has to say against a node."""
    found = answer["nodes"].get(node)
    if found is None:
        return [str(error) for error in answer["errors"]] or ["the probe says nothing of it"]
    if found["ok"]:
        return []
    return [str(error) for error in found["errors"] or answer["errors"] or [found["state"]]]
