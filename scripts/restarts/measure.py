"""Measure one run: waits, consumers, the length of a roll, and throughput. These are pure functions of a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .judge import beside, lost
from .record import LoadRecord

# --- waits -----------------------------------------------------------------------------------------


def waits(record: LoadRecord, begin: float = 0.0, end: float = math.inf) -> list[float]:
    """Return how many seconds each attempt that became ready in a time span waited before it started.

    A task with an ETA becomes ready at its ETA. An attempt that never started has no wait; it counts as lost.
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
    """Return the value that `share` of all values do not exceed (nearest rank); NaN if there are no values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


# --- consumers -------------------------------------------------------------------------------------


def fewest_consumers(record: LoadRecord, begin: float, end: float) -> dict[str, int]:
    """Return, for each queue, the fewest processes that consumed it at any moment of a time span."""
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
            every = {event.node for event in record.workers}
            changes += [
                (mark.at, node, (), 0)
                for node in every
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
    """The time in which a worker does not consume: from the request to stop until its successor consumes."""

    node: str
    queues: tuple[str, ...]
    processes: int
    left: float
    back: float

    @property
    def seconds(self) -> float:
        """Return the duration of the turn: drain, stop and boot."""
        return self.back - self.left


def turns(record: LoadRecord, begin: float, end: float) -> list[WorkerTurn]:
    """Return the restarts in a time span, in the order in which they began."""
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
        # If a worker was told to stop twice, the first time counts.
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
    """Return the shortest time in seconds that these drains and boots can take under the roll's own rules.

    Each restart begins as soon as the rules allow it, in the order of the real restarts. A later one may overtake an
    earlier one that has to wait.

    Args:
        done: The real restarts.
        capacity: By queue, the number of processes that consume it when all workers run.
        minimum: Share of these processes that must keep consuming, 0 to 1; it is always at least one process.
        batch: Number of workers that may be away at a time.
        pilots: Number of workers that restart one at a time at the beginning.
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
    """Return whether a worker may stop now.

    A queue may fall below its minimum only while no other of its workers is away. This lets its only worker restart;
    the roll announces that gap.
    """
    for queue in turn.queues:
        gone = sum(other.processes for other in away if queue in other.queues)
        if capacity[queue] - gone - turn.processes < floor[queue] and gone:
            return False
    return True


# --- over time -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """The data of the picture: one value for each second from `begin` on.

    Attributes:
        done: Number of attempts that ended in each second.
        lost: Number of tasks lost until the end of each second.
    """

    begin: float
    done: Sequence[int]
    lost: Sequence[int]


def series(record: LoadRecord, begin: float, end: float) -> Series:
    """Return throughput and lost tasks between two moments."""
    length = max(1, math.ceil(end - begin))
    done, gone = [0] * length, [0] * length
    for run in record.runs:
        if run.ended is not None and begin <= run.ended < begin + length:
            done[int(run.ended - begin)] += 1
    for fate in lost(record):
        # Tasks that were lost outside of the picture are shown at its edges, so the last value is the total.
        gone[min(length - 1, max(0, int(fate.at - begin)))] += 1
    total, summed = 0, []
    for number in gone:
        total += number
        summed.append(total)
    return Series(begin, done, summed)
