"""Measure one run: waits, consumers, what a roll took, and throughput over time. Plain functions over a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .judge import beside, lost
from .record import LoadRecord

# --- waits -----------------------------------------------------------------------------------------


def waits(record: LoadRecord, begin: float = 0.0, end: float = math.inf) -> list[float]:
    """Seconds from ready to begun of each attempt that was ready in a span of time; ETAs count from the ETA.

    What never began has no wait; it is counted as lost.
    """
    found = []
    ends = {run.task: run.ended for run in record.runs}
    for send in record.sends:
        ready = ends.get(beside(send.task, -1)) if send.kind == "relayed" else send.ready
        for _, runs in sorted(record.by_attempt.get(send.task, {}).items()):
            if ready is not None and not send.refused and begin <= ready <= end:
                found.append(max(0.0, runs[0].started - ready))
            ready = next((run.retry_at for run in runs if run.retry_at is not None), None)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


# --- consumers -------------------------------------------------------------------------------------


def fewest_consumers(record: LoadRecord, begin: float, end: float) -> dict[str, int]:
    """For each queue, the fewest processes that consumed it at any moment of a span of time."""
    nodes: dict[str, tuple[tuple[str, ...], int]] = {}
    fewest: dict[str, int] = {}
    queues = sorted({queue for event in record.workers for queue in event.queues})

    def look() -> None:
        for queue in queues:
            now = sum(processes for names, processes in nodes.values() if queue in names)
            fewest[queue] = min(fewest.get(queue, now), now)

    changes: list[tuple[float, str, tuple[str, ...], int]] = [
        (event.at, event.node, event.queues, event.processes if event.event == "ready" else 0)
        for event in record.workers
    ]
    for mark in record.marks:
        if mark.fatal and not mark.pid:
            gone = {event.node for event in record.workers}
            changes += [
                (mark.at, node, (), 0)
                for node in gone
                if mark.node in ("", node) and mark.host in ("", node.partition("@")[2])
            ]
    inside = False
    for at, node, names, processes in sorted(changes):
        if at > end:
            break
        if at >= begin and not inside:
            look()
            inside = True
        nodes[node] = (names, processes)
        if inside:
            look()
    if not inside:
        look()
    return fewest


# --- the roll --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerTurn:
    """A worker's time without consuming: from being told to stop until its successor consumes."""

    node: str
    queues: tuple[str, ...]
    processes: int
    left: float
    back: float

    @property
    def seconds(self) -> float:
        """Drain, stop and boot."""
        return self.back - self.left


def turns(record: LoadRecord, begin: float, end: float) -> list[WorkerTurn]:
    """The restarts of a span of time in the order in which they began."""
    found: list[WorkerTurn] = []
    last: dict[str, tuple[tuple[str, ...], int]] = {}
    left: dict[str, float] = {}
    for event in record.workers:
        if event.event == "ready":
            if event.node in left:
                queues, processes = last.get(event.node, (event.queues, event.processes))
                at = left.pop(event.node)
                if begin <= at <= end:
                    found.append(WorkerTurn(event.node, queues, processes, at, event.at))
            last[event.node] = (event.queues, event.processes)
        # Told twice: it is the first time that counts.
        elif event.node not in left:
            left[event.node] = event.at
    return sorted(found, key=lambda turn: turn.left)


def critical_path(
    done: Sequence[WorkerTurn],
    capacity: Mapping[str, int],
    minimum: float,
    batch: int,
    pilots: int = 1,
) -> float:
    """Seconds that these drains and boots take at the least under the roll's own rules, with nothing in between.

    Each is begun as soon as the rules let it, in the order in which they were begun; a later one passes an earlier
    one that has to wait.

    Args:
        done: The restarts as they were.
        capacity: Queue -> processes that consume it when all is well.
        minimum: Share of them that has to go on consuming, 0 to 1; one at the least.
        batch: Workers that may be away at a time.
        pilots: How many go alone at the beginning.
    """
    floor = {queue: max(1, math.ceil(minimum * total)) for queue, total in capacity.items()}
    away: list[tuple[float, WorkerTurn]] = []
    waiting = list(done)
    now = 0.0
    begun = 0
    while waiting or away:
        for turn in list(waiting):
            if len(away) >= batch or (away and begun <= pilots):
                break
            if _may_leave(turn, [other for _, other in away], capacity, floor):
                waiting.remove(turn)
                away.append((now + turn.seconds, turn))
                begun += 1
        if not away:
            raise ValueError(f"the rules let none of {len(waiting)} restarts begin")
        now = min(until for until, _ in away)
        away = [(until, turn) for until, turn in away if until > now]
    return now


def _may_leave(
    turn: WorkerTurn,
    away: Sequence[WorkerTurn],
    capacity: Mapping[str, int],
    floor: Mapping[str, int],
) -> bool:
    """Whether a worker may go; the only one of its queue always may, alone of its queue: its gap is announced."""
    for queue in turn.queues:
        gone = sum(other.processes for other in away if queue in other.queues)
        if capacity[queue] - gone - turn.processes < floor[queue] and gone:
            return False
    return True


# --- over time -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """What the picture shows: a value for each second from `begin` on.

    Attributes:
        done: Attempts that came to their end in that second.
        lost: Tasks lost until then.
    """

    begin: float
    done: Sequence[int]
    lost: Sequence[int]


def series(record: LoadRecord, begin: float, end: float) -> Series:
    """Throughput and lost tasks between two moments."""
    length = max(1, math.ceil(end - begin))
    done, gone = [0] * length, [0] * length
    for run in record.runs:
        if run.ended is not None and begin <= run.ended < begin + length:
            done[int(run.ended - begin)] += 1
    for fate in lost(record):
        # One that was lost outside of the picture is shown at its edge: the last value is all of them.
        gone[min(length - 1, max(0, int(fate.at - begin)))] += 1
    total, summed = 0, []
    for number in gone:
        total += number
        summed.append(total)
    return Series(begin, done, summed)
