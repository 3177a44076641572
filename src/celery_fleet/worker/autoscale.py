"""Decide how many processes a worker should have: pure functions of what was seen, without clocks or I/O.

The pool grows by half of its size, every `PACE` seconds, while the oldest task has waited longer than the inventory
allows and no process is idle. It shrinks to the most processes that were busy at once, after a time in which at least
one was always idle and no task waited too long. That time is several times the allowed wait, so a short lull ends no
process, and one burst causes few changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from celery_fleet.common.errors import FleetError

#: The environment variable with the option `autoscale` of the inventory: ``{"min": 2, "max": 10, "wait": 30.0}``.
VARIABLE = "CELERY_FLEET_AUTOSCALE"

#: Seconds between two growths, in which new processes take effect.
PACE = 5.0

#: The pool shrinks after this many times the allowed wait, but within these bounds in seconds.
PATIENCE = 4.0
SHORTEST_CALM, LONGEST_CALM = 10.0, 600.0


@dataclass(frozen=True)
class Limits:
    """The bounds of a pool.

    Attributes:
        lowest: The least number of processes.
        highest: The largest number.
        wait: Seconds that a task may wait before the pool grows; None for a pool of fixed size.
    """

    lowest: int
    highest: int
    wait: float | None = None

    @property
    def words(self) -> str:
        """Return them as ``4`` or ``2 to 10``."""
        return str(self.lowest) if self.wait is None else f"{self.lowest} to {self.highest}"

    @property
    def calm(self) -> float:
        """Return the seconds of calm after which the pool shrinks."""
        return min(max(PATIENCE * (self.wait or 0.0), SHORTEST_CALM), LONGEST_CALM)


@dataclass(frozen=True)
class PoolLook:
    """A pool at one moment.

    Attributes:
        now: Seconds of a monotonic clock.
        processes: How many it has.
        busy: How many tasks it has.
        oldest: Seconds that the oldest task has waited, here or in the worker's queues; 0 without one.
    """

    now: float
    processes: int
    busy: int
    oldest: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The size that the pool should have, and the reason if it should change."""

    size: int
    why: str = ""


def limits_of(environ: Mapping[str, str], concurrency: int) -> Limits:
    """Return a worker's bounds by the inventory.

    Args:
        environ: The process's environment.
        concurrency: The size of a pool without `VARIABLE`.

    Raises:
        FleetError: The variable does not have its form.
    """
    text = environ.get(VARIABLE, "")
    if not text:
        return Limits(concurrency, concurrency)
    try:
        given = json.loads(text)
        found = Limits(int(given["min"]), int(given["max"]), float(given["wait"]))
        if not 1 <= found.lowest <= found.highest or not 0 < float(given["wait"]) < math.inf:
            raise ValueError
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as exc:
        raise FleetError(
            f'{VARIABLE} is not as in {{"min": 2, "max": 10, "wait": 30}}; run site.yml again to write the worker\'s '
            "environment"
        ) from exc
    return found


class Autoscale:
    """Decides by what it has seen so far.

    Args:
        room: Returns how many of some new processes there is memory for.

    Attributes:
        blocked: Whether the pool would be larger if there were memory.
    """

    def __init__(self, room: Callable[[int], int]) -> None:
        self.blocked = False
        self._room = room
        self._grown = -math.inf
        self._calm_since: float | None = None
        self._most_busy = 0

    def decide(self, limits: Limits, look: PoolLook) -> Decision:
        """Return the size that the pool should have now; call it every second or so."""
        if look.processes > limits.highest:
            self._restart()
            self.blocked = False
            return Decision(limits.highest, f"{limits.words} is allowed")
        if look.processes < limits.lowest:
            return self._grow(look, limits.lowest, f"{limits.words} is wanted")
        is_full = look.busy >= look.processes
        is_late = limits.wait is not None and look.oldest > limits.wait
        self.blocked = self.blocked and is_full and is_late
        if limits.lowest == limits.highest:
            return Decision(look.processes)
        if is_full or is_late:
            self._restart()
        if is_full and is_late:
            wanted = min(limits.highest, look.processes + math.ceil(look.processes / 2))
            return self._grow(look, wanted, f"the oldest task has waited {look.oldest:.0f} s")
        if is_full or is_late:
            return Decision(look.processes)
        return self._shrink(limits, look)

    def _grow(self, look: PoolLook, wanted: int, why: str) -> Decision:
        if wanted == look.processes or look.now - self._grown < PACE:
            return Decision(look.processes)
        self._grown = look.now
        self._restart()
        more = self._room(wanted - look.processes)
        self.blocked = more < wanted - look.processes
        return Decision(look.processes + more, why)

    def _shrink(self, limits: Limits, look: PoolLook) -> Decision:
        if self._calm_since is None:
            self._calm_since = look.now
        self._most_busy = max(self._most_busy, look.busy)
        wanted = max(limits.lowest, self._most_busy)
        if wanted == look.processes or look.now - self._calm_since < limits.calm:
            return Decision(look.processes)
        most = self._most_busy
        self._restart()
        return Decision(wanted, f"at most {most} were busy in the last {limits.calm:.0f} s")

    def _restart(self) -> None:
        self._calm_since, self._most_busy = None, 0
