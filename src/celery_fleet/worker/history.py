"""Write what becomes of each task into a stream of the result store, for ``celery-fleet task``.

An entry of the stream is a batch of one worker. Its only field ``b`` is a JSON document, compressed by zlib:

    {"format": 1, "node": "mail@worker1", "release": "1f0c2d3e4a5b",
     "tasks": [[id, name, queue, origin, sent, eta, received, started, ended, state, detail], …]}

All times are Unix times, or null. A task that is not over when a batch is written appears again in a later one. `state`
is one of :mod:`celery_fleet.compat.requests`, or ``returned`` for a task that the worker did not finish before it
ended or lost its connection. `detail` is the name of the exception of a task that failed, or the run time of one that
succeeded.

The stream must never slow a worker down: another thread writes it, with a short time limit, and what can't be written
is dropped; the log says so. It stays below a size because each worker trims it once a minute.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import weakref
import zlib
from collections import deque
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from typing import Any

from celery import bootsteps, signals
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError, ResponseError

from celery_fleet.common.errors import error_text
from celery_fleet.common.periodic import Periodic
from celery_fleet.compat import broker as compat_broker
from celery_fleet.compat import requests
from celery_fleet.delivery.keys import CANARY, HISTORY
from celery_fleet.delivery.sending_time import first_sent_at
from celery_fleet.worker.task_counts import queue_of

logger = logging.getLogger("celery_fleet.history")

FORMAT = 1

#: Seconds between two writes.
INTERVAL = 2.0

#: Tasks in one entry of the stream, at most.
BATCH = 200

#: Ended tasks that wait to be written, at most; the oldest are dropped.
WAITING = 10_000

#: Longest text that is kept of a message's headers. Any sender can write anything there.
LONGEST = 200

#: Seconds between two looks at the size of the stream.
TRIM = 60.0

#: Seconds for which the stream stays after the last entry.
KEPT = 30 * 86_400

#: Seconds without an attempt after an error, and after one that says that the server is full.
PAUSE, PAUSE_FULL = 30.0, 300.0

#: Seconds for connecting and for each command.
TIMEOUT = 3.0

RETURNED = "returned"


@dataclass
class Record:
    """What is known of one run of a task; the fields are those of the stream, in this order."""

    id: str
    name: str
    queue: str
    origin: str | None
    sent: float | None
    eta: float | None
    received: float
    started: float | None = None
    ended: float | None = None
    state: str = requests.RECEIVED
    detail: str | float | None = None


@dataclass
class _Open:
    """A task that is not over: its record, and the last state that was written."""

    record: Record
    request: weakref.ref[Any]
    told: str | None = None


class History:
    """Collects records; it may be told in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By the identity of the request: a retry has the same id, and arrives before its first run has ended.
        self._open: dict[int, _Open] = {}
        self._ended: deque[Record] = deque()
        #: Whether a record was dropped because too many waited.
        self.overflowed = False

    def seen(self, request: Any, what: str, detail: Any = None) -> None:
        """Note what has happened to a request; see `celery_fleet.compat.requests.follow`."""
        if request.task.name == CANARY:
            return
        now = round(time.time(), 3)
        with self._lock:
            if what == requests.RECEIVED:
                if len(str(request.id)) > LONGEST:
                    return
                self._open[id(request)] = _Open(_received(request, now), weakref.ref(request))
                return
            found = self._open.get(id(request))
            if found is None or found.request() is not request:
                return
            found.record.state = what
            if what == requests.STARTED:
                found.record.started = now
                return
            detail = round(detail, 3) if isinstance(detail, float) else detail
            self._end(id(request), what, now, detail)

    def _end(self, key: int, state: str, now: float, detail: str | float | None = None) -> None:
        record = self._open.pop(key).record
        record.state, record.ended, record.detail = state, now, detail
        self._keep(record)

    def _keep(self, record: Record) -> None:
        if len(self._ended) >= WAITING:
            self._ended.popleft()
            self.overflowed = True
        self._ended.append(record)

    def take(self, older: float = INTERVAL) -> list[Record]:
        """Return what is to be written: tasks that have ended, and others that were received `older` seconds ago.

        Most tasks end before that, so they need only one record. Celery forgets a request without a word if the worker
        has lost its connection to the broker.
        """
        now = round(time.time(), 3)
        with self._lock:
            for key in [key for key, one in self._open.items() if one.request() is None]:
                self._end(key, RETURNED, now)
            found = list(self._ended)
            self._ended.clear()
            for one in self._open.values():
                if one.record.received <= now - older and one.told != one.record.state:
                    one.told = one.record.state
                    found.append(replace(one.record))
        return found

    def close(self) -> None:
        """Note that the worker gives back all tasks that it has not finished."""
        now = round(time.time(), 3)
        with self._lock:
            for key in list(self._open):
                self._end(key, RETURNED, now)


def _received(request: Any, now: float) -> Record:
    message = request.message
    origin = (message.headers or {}).get("origin")
    return Record(
        id=request.id,
        name=request.task.name,
        queue=queue_of(message),
        origin=str(origin)[:LONGEST] if origin else None,
        sent=first_sent_at(message),
        eta=round(request.eta.timestamp(), 3) if request.eta else None,
        received=now,
    )


def packed(node: str, release: str | None, records: list[Record]) -> bytes:
    """Return the content of one entry."""
    document = {
        "format": FORMAT,
        "node": node,
        "release": release,
        "tasks": [astuple(one) for one in records],
    }
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode())


class HistoryWriter(Periodic):
    """Writes the records of a worker.

    Args:
        node: The worker's node name.
        history: The records.
        client: A client of the result store.
        size: Bytes that the stream may take.
    """

    def __init__(self, node: str, history: History, client: Any, size: int) -> None:
        super().__init__("celery_fleet.history")
        self._node = node
        self._history = history
        self._client = client
        self._size = size
        self._trim_at = time.monotonic() + TRIM
        self._told = self._failing = False
        self._refused = False
        self._overflow_told = False
        #: Whether there was anything that could not be written.
        self.has_gaps = False

    def turn(self) -> float:
        """Write what is due; return the seconds until the next turn."""
        if self._history.overflowed and not self._overflow_told:
            self._overflow_told = self.has_gaps = True
            logger.warning(
                "the history of tasks has gaps: more than %d tasks ended before it could be written",
                WAITING,
            )
        return self._write(self._history.take())

    def end(self) -> None:
        """Stop, and write the rest unless the server hangs or has just failed."""
        self.stop()
        self._history.close()
        if not self._failing and (self._thread is None or not self._thread.is_alive()):
            self._write(self._history.take(older=0.0))

    def _write(self, records: list[Record]) -> float:
        done = 0
        try:
            if self._refused:
                return PAUSE
            while done < len(records):
                batch = records[done : done + BATCH]
                release = os.environ.get("CELERY_FLEET_RELEASE")
                self._client.xadd(HISTORY, {"b": packed(self._node, release, batch)})
                done += len(batch)
            self._trim_if_due()
        except OutOfMemoryError as error:
            # Redis lets this through when it is full, and then it is needed most.
            with suppress(RedisError, OSError):
                self._trim_if_due()
            return self._failed(error)
        except Exception as error:  # noqa: BLE001  # no error may stop tasks
            return self._failed(error)
        self._failing = False
        if records:
            self._told = False
        return INTERVAL

    def _trim_if_due(self) -> None:
        if time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + TRIM
        # If the history is switched off, it disappears.
        self._client.expire(HISTORY, KEPT)
        used = self._client.memory_usage(HISTORY) or 0
        if used > self._size:
            # Entries differ in size, so this is only right on average, which is enough.
            keep = int(self._client.xlen(HISTORY) * 0.9 * self._size / used)
            self._client.xtrim(HISTORY, maxlen=keep, approximate=True)

    def _failed(self, error: Exception) -> float:
        """Log the first error in a row; return the seconds until the next attempt."""
        full = isinstance(error, OutOfMemoryError)
        self.has_gaps = self._failing = True
        # Such as a server that forbids the command: it will not allow it later either.
        self._refused = isinstance(error, NoPermissionError) or (
            isinstance(error, ResponseError) and str(error).lower().startswith("unknown command")
        )
        if not self._told:
            self._told = True
            what = "is off until this worker restarts" if self._refused else "has gaps"
            trace = None if isinstance(error, (RedisError, OSError)) else error
            logger.warning("the history of tasks %s: %s", what, error_text(error), exc_info=trace)
        return PAUSE_FULL if full else PAUSE


def install(app: Any, size: int) -> requests.Seen | None:
    """Write the history of the app's worker; call this before the worker builds its blueprints.

    Args:
        app: The Celery app.
        size: Bytes that the stream may take.

    Returns:
        What must be told of each request; None if results are not in a Redis.
    """
    client = compat_broker.result_client(app, TIMEOUT)
    if client is None:
        return None
    history = History()

    class Write(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Starts the thread once the pool has forked."""

        name = "celery_fleet.History"
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            writer = HistoryWriter(worker.hostname, history, client, size)
            # Not in this step's stop(): tasks still run after that.
            signals.worker_shutdown.connect(
                lambda **_: writer.end(), weak=False, dispatch_uid="celery_fleet.history"
            )
            writer.start()

    app.steps["worker"].add(Write)
    return history.seen
