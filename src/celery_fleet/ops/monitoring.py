"""Report what the workers do every few seconds: ``python -m celery_fleet.ops.monitoring`` with JSON on stdin.

    {"settings": {… operator.json …}, "duration": 60, "interval": 5,
     "nodes": ["mail@worker1"], "expected": ["mail@worker1", "bulk@worker1"], "queues": ["mail", "bulk"]}

prints a line of JSON at the start, after each interval and at the end; SIGTERM ends it as well. ``nodes`` limits
it to some workers; if it is empty, all count. A line is ``{"at", "elapsed", "span", "trouble", "workers", "queues",
"counts", "mean", "failures", "last"}``: the tasks that ended in the ``span`` seconds since the previous line, their
mean runtime in seconds, and the failures. ``trouble`` says why the workers could not be asked; then ``workers`` and
``queues`` are unchanged. If nothing is available at all, it prints ``{"error": "one line"}``.

It counts Celery's events. Workers that send no task events (``task_events``) only report how many tasks they have
started, so only these are counted. Each worker's ``source`` says which.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from celery_fleet.common.errors import FleetError, error_text, one_line
from celery_fleet.common.redact import redact, redact_all, secrets_in
from celery_fleet.compat import versions
from celery_fleet.config.settings import FleetSettings, parse
from celery_fleet.ops import questions
from celery_fleet.ops.app import make_app
from celery_fleet.supervision import broker

#: What each event is counted as.
KINDS: Mapping[str, str] = {
    "task-received": "received",
    "task-started": "started",
    "task-succeeded": "succeeded",
    "task-failed": "failed",
    "task-retried": "retried",
}
COUNTS = tuple(KINDS.values())

#: Number of tasks with remembered names, because later events lack the name; number of failures in one line.
REMEMBERED = 20_000
FAILURES = 100

#: Seconds that a check of workers and queues may take.
LOOK = 7.0

#: Seconds between two attempts to connect.
AGAIN = 1.0

#: Seconds by which a wait may end early.
EARLY = 0.05

EVENTS, TOTALS = "events", "totals"


class Tally:
    """Counts events; one thread feeds it, another empties it."""

    def __init__(self, nodes: frozenset[str] = frozenset()) -> None:
        self._nodes = nodes
        self._lock = threading.Lock()
        self._names: OrderedDict[str, str] = OrderedDict()
        self._begun: dict[str, tuple[Any, int]] = {}
        self._clear()

    def _clear(self) -> None:
        self._counts = dict.fromkeys(COUNTS, 0)
        self._runtimes = 0.0
        self._failures: deque[dict[str, Any]] = deque(maxlen=FAILURES)

    def event(self, event: Mapping[str, Any]) -> None:
        """Count one of Celery's events."""
        kind = KINDS.get(str(event.get("type")))
        node = str(event.get("hostname"))
        if kind is None or (self._nodes and node not in self._nodes):
            return
        identity = str(event.get("uuid"))
        with self._lock:
            if kind == "received":
                self._names[identity] = str(event.get("name"))
                while len(self._names) > REMEMBERED:
                    self._names.popitem(last=False)
            if self._names.get(identity, "").startswith(questions.OUR_TASKS):
                return
            self._counts[kind] += 1
            if kind == "succeeded":
                self._runtimes += float(event.get("runtime") or 0)
            if kind == "failed":
                self._failures.append(
                    {
                        # None if the task was received before the listener started.
                        "task": self._names.get(identity),
                        "id": identity,
                        "worker": node,
                        "error": one_line(event.get("exception")),
                        "at": event.get("timestamp"),
                    }
                )
            if kind in ("succeeded", "failed"):
                self._names.pop(identity, None)

    def totals(self, node: str, run: Any, begun: int) -> None:
        """Count the tasks that a worker without events has started so far; `run` identifies its process."""
        with self._lock:
            before = self._begun.get(node)
            self._begun[node] = (run, begun)
            if before is not None:
                self._counts["started"] += begun - before[1] if before[0] == run else begun

    def take(self) -> dict[str, Any]:
        """Return the counts since the last call."""
        with self._lock:
            done = self._counts["succeeded"]
            found = {
                "counts": self._counts,
                "mean": self._runtimes / done if done else None,
                "failures": list(self._failures),
            }
            self._clear()
            return found


class Listener:
    """Feeds a tally with events in a separate thread, and reconnects if the connection is lost."""

    def __init__(self, settings: FleetSettings, tally: Tally) -> None:
        self._settings = settings
        self._tally = tally
        self._stopped = threading.Event()
        self._receiver: Any = None
        self._thread = threading.Thread(target=self._run, name="celery_fleet.events", daemon=True)

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, so that kombu removes its queue from the broker; don't wait for a broker that hangs."""
        self._stopped.set()
        if self._receiver is not None:
            self._receiver.should_stop = True
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                app = make_app(self._settings)
                with app.connection_for_read() as connection:
                    self._receiver = app.events.Receiver(
                        connection, handlers={"*": self._tally.event}
                    )
                    self._receiver.should_stop = self._stopped.is_set()
                    self._receiver.capture(limit=None, timeout=None, wakeup=False)
            except Exception:  # noqa: BLE001  # the watcher reports what is wrong with the broker
                self._stopped.wait(AGAIN)


class Watcher:
    """Checks workers and queues, never longer than :data:`LOOK` seconds."""

    def __init__(self, settings: FleetSettings, request: Mapping[str, Any], tally: Tally) -> None:
        self._settings = settings
        self._request = request
        self._tally = tally
        self._nodes = frozenset(map(str, request.get("nodes") or ()))
        self.workers: dict[str, dict[str, Any]] = {}
        self.queues: dict[str, int] = {}
        self._question = broker.Question(self._look, broker.name(make_app(settings)), deadline=LOOK)

    def look(self) -> str | None:
        """Check once; return why that was not possible, or None."""
        try:
            return self._question.ask()
        except Exception as exc:  # noqa: BLE001  # any error is reported
            return f"{type(exc).__name__}: {error_text(exc)}"

    def _look(self) -> str | None:
        app = make_app(self._settings)
        trouble = broker.ask(app)
        if trouble:
            return trouble
        expected = self._nodes or self._request.get("expected") or ()
        request = {"method": "stats", "nodes": sorted(self._nodes), "expected": sorted(expected)}
        stats = questions.inspect(app, request)
        queues = questions.lengths(app, self._request.get("queues") or ())
        self.workers = {node: self._worker(node, stats.get(node)) for node in {*expected, *stats}}
        self.queues = queues
        return None

    def _worker(self, node: str, stats: Mapping[str, Any] | None) -> dict[str, Any]:
        if stats is None:
            return {"online": False, "source": None}
        fleet = stats.get("fleet") or {}
        # If a worker does not say, count only its events, so that nothing is counted twice.
        source = TOTALS if fleet.get("task_events") is False else EVENTS
        if source == TOTALS:
            self._tally.totals(node, stats.get("pid"), questions.total(stats))
        return {"online": True, "source": source}


def observe(
    settings: FleetSettings,
    request: Mapping[str, Any],
    emit: Callable[[dict[str, Any]], None],
    stopped: threading.Event,
) -> None:
    """Report what happens until the time is over or the program is told to stop."""
    duration, interval = float(request["duration"]), float(request["interval"])
    tally = Tally(frozenset(map(str, request.get("nodes") or ())))
    watcher = Watcher(settings, request, tally)
    listener = Listener(settings, tally)
    listener.start()
    began = before = time.monotonic()
    number = 0
    while True:
        trouble = watcher.look()
        now = time.monotonic()
        number = max(number + 1, int((now - began) // interval) + 1)
        last = stopped.is_set() or now - began >= duration - EARLY
        emit(
            {
                "at": time.time(),
                "elapsed": now - began,
                "span": now - before,
                "trouble": trouble,
                "workers": watcher.workers,
                "queues": watcher.queues,
                **tally.take(),
                "last": last,
            }
        )
        if last:
            break
        before = now
        due = min(number * interval, duration)
        stopped.wait(max(0.0, began + due - time.monotonic()))
    listener.stop()


def _wait_for_the_end(stopped: threading.Event) -> None:
    signal.sigwait({signal.SIGTERM})
    stopped.set()


def main() -> int:
    """Read the request and print lines; see the module's docstring."""
    stopped = threading.Event()
    # Use a thread: a handler might run while the main thread holds the event's own lock. All threads inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_the_end, args=(stopped,), daemon=True).start()
    secrets: set[str] = set()

    def emit(line: dict[str, Any]) -> None:
        try:
            print(json.dumps(redact_all(line, secrets), default=str), flush=True)
        except BrokenPipeError:
            # The reader is gone.
            os._exit(1)

    try:
        raw = json.loads(sys.stdin.read())
        secrets = secrets_in(raw)
        versions.require()
        observe(parse(raw.get("settings"), "settings"), raw, emit, stopped)
    except FleetError as exc:
        emit({"error": redact(one_line(exc), secrets)})
        return 1
    except Exception as exc:  # noqa: BLE001  # any error is the answer
        emit({"error": redact(f"{type(exc).__name__}: {one_line(exc)}", secrets)})
        return 1
    return 0


if __name__ == "__main__":
    # A thread that hangs in a socket must not keep the process alive.
    os._exit(main())
