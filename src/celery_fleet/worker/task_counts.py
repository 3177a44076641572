"""Count what becomes of a worker's tasks, in total and for the last hour.

A wait lasts from the sending, or the ETA if that is later, to the start; it is ``unknown`` if the message does not say
when it was sent. Times are in seconds. Canaries are not counted. `metrics` writes the counts to a file.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, TypedDict

from celery_fleet.compat import requests
from celery_fleet.delivery.keys import CANARY
from celery_fleet.delivery.sending_time import sent_at

#: Upper bounds of the histograms' buckets in seconds; the last bucket, which has none, is for everything above.
BOUNDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

_COUNTED = ("received", "started", "succeeded", "retried", "revoked", "rejected")

#: Different tasks, and exceptions of each, that are counted by name; the others count as `OTHER`.
MOST_TASKS = 200
MOST_ERRORS = 50
OTHER = "other"


class Histogram(TypedDict):
    """The number of values in each bucket, not cumulative, and the sum of the values."""

    buckets: list[int]
    sum: float


class TaskCounts(TypedDict):
    """What has become of the messages of one task in one queue; ``failed`` is by the exception's name."""

    name: str
    queue: str
    received: int
    started: int
    succeeded: int
    retried: int
    revoked: int
    rejected: int
    failed: dict[str, int]
    runtime: Histogram


class Waits(Histogram):
    """How long messages waited in a queue, and how many don't say when they were sent."""

    queue: str
    unknown: int


class Recorder:
    """Counts what happens to tasks; it may be told in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[tuple[str, str], TaskCounts] = {}
        self._waits: dict[str, Waits] = {}

    def continue_from(self, tasks: Iterable[TaskCounts], waits: Iterable[Waits]) -> None:
        """Continue earlier counts, as `counts` returns them."""
        self._tasks = {(counts["name"], counts["queue"]): counts for counts in tasks}
        self._waits = {found["queue"]: found for found in waits}

    def seen(self, request: Any, what: str, detail: Any = None) -> None:
        """Count what has happened to a request; see `celery_fleet.compat.requests.follow`."""
        name = request.task.name
        if name == CANARY or what == requests.IGNORED:
            return
        queue = queue_of(request.message)
        with self._lock:
            counts: Any = self._tasks.get((name, queue)) or self._new(name, queue)
            if what == requests.FAILED:
                _count(counts["failed"], detail)
                return
            counts[what] += 1
            if what == requests.SUCCEEDED and detail is not None:
                _add(counts["runtime"], detail)
            elif what == requests.STARTED:
                self._started(request, queue)

    def _new(self, name: str, queue: str) -> TaskCounts:
        # Each of them costs the exporter and Prometheus some 25 series.
        if len(self._tasks) >= MOST_TASKS:
            name = OTHER
        counts = TaskCounts(
            name=name,
            queue=queue,
            received=0,
            started=0,
            succeeded=0,
            retried=0,
            revoked=0,
            rejected=0,
            failed={},
            runtime=Histogram(buckets=_none(), sum=0.0),
        )
        return self._tasks.setdefault((name, queue), counts)

    def _started(self, request: Any, queue: str) -> None:
        waits = self._waits.get(queue)
        if waits is None:
            waits = self._waits[queue] = Waits(queue=queue, buckets=_none(), sum=0.0, unknown=0)
        sent = sent_at(request.message)
        if sent is None:
            waits["unknown"] += 1
            return
        if request.eta:
            sent = max(sent, request.eta.timestamp())
        # The clocks of two hosts may differ.
        _add(waits, max(0.0, request.time_start - sent))

    def counts(self) -> tuple[list[TaskCounts], list[Waits]]:
        """Return a copy of all counts, for tasks and for waits."""
        # This is much faster than deepcopy, and meanwhile the event loop may wait for the lock.
        with self._lock:
            tasks = [
                counts | {"failed": dict(counts["failed"]), "runtime": _copy(counts["runtime"])}
                for counts in self._tasks.values()
            ]
            waits = [found | {"buckets": list(found["buckets"])} for found in self._waits.values()]
        return tasks, waits


def check(tasks: Any, waits: Any) -> None:
    """Check counts that were read from a file, which a task may have written.

    Raises:
        ValueError, KeyError, TypeError: They are not what `Recorder.counts` returns.
    """
    numbers = []
    for one in tasks:
        if not (isinstance(one["name"], str) and isinstance(one["queue"], str)):
            raise TypeError("a task has no name")
        numbers += [one[what] for what in _COUNTED] + list(one["failed"].values())
    for histogram in [*(one["runtime"] for one in tasks), *waits]:
        if len(histogram["buckets"]) != len(BOUNDS) + 1:
            raise ValueError("a histogram has another number of buckets")
        numbers += [*histogram["buckets"], histogram["sum"]]
    numbers += [one["unknown"] for one in waits if isinstance(one["queue"], str)]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("a count is not finite")


def total(tasks: Iterable[TaskCounts], waits: Iterable[Waits]) -> Totals:
    """Return the totals of a recorder's counts."""
    tasks = list(tasks)
    failed = sum(sum(one["failed"].values()) for one in tasks)
    buckets = [one["buckets"] for one in waits] or [_none()]
    return Totals(
        tuple(map(sum, zip(*buckets, strict=True))),
        failed + sum(one["succeeded"] for one in tasks),
        failed,
    )


def queue_of(message: Any) -> str:
    """Return the queue that a message came from; see `celery_fleet.compat.queues.note_queues`."""
    queue = getattr(message, "queue", None)
    return str(queue or (message.delivery_info or {}).get("routing_key") or "")


def _none() -> list[int]:
    return [0] * (len(BOUNDS) + 1)


def _copy(histogram: Histogram) -> Histogram:
    return {"buckets": list(histogram["buckets"]), "sum": histogram["sum"]}


def _add(histogram: Histogram, value: float) -> None:
    histogram["buckets"][bisect_left(BOUNDS, value)] += 1
    histogram["sum"] += value


def _count(errors: dict[str, int], name: str) -> None:
    key = name if name in errors or len(errors) < MOST_ERRORS else OTHER
    errors[key] = errors.get(key, 0) + 1


class Totals(NamedTuple):
    """What a worker has counted so far, of all its tasks together: waits by bucket, ends, and failures."""

    waits: tuple[int, ...]
    ended: int
    failed: int


class LastHour:
    """Keeps totals once a minute, to say what has been counted in the last hour, or since the worker's start."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Totals]] = deque(maxlen=61)

    def keep(self, now: float, totals: Totals) -> None:
        """Keep totals, unless the last minute has some."""
        if not self._kept or now - self._kept[-1][0] >= 60:
            self._kept.append((now, totals))

    def since(self, now: float, totals: Totals) -> dict[str, Any]:
        """Return the difference: `seconds` that it covers, `waits` by bucket, `ended` and `failed`."""
        then, before = self._kept[0] if self._kept else (now, totals)
        return {
            "seconds": round(now - then),
            "waits": [new - old for new, old in zip(totals.waits, before.waits, strict=True)],
            "ended": totals.ended - before.ended,
            "failed": totals.failed - before.failed,
        }
