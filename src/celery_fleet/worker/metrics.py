"""Write the counts of a worker's tasks to a file, which the host's exporter reads.

Counting (`task_counts`) needs neither Celery's events nor Redis. It continues in the file when the worker starts again.
After a kill, what the worker counted since the file was last written is lost. A separate thread writes the file: a disk
that hangs must stop neither the event loop nor the watchdog.

    {"format": 1, "node": "mail@worker1", "worker": "mail", "written": <Unix time>, "release": "<id>",
     "counts_tasks": true, "bounds": [0.1, 0.5, …],
     "tasks": [{"name": "shop.pay", "queue": "mail", "received": 3, "started": 3, "succeeded": 1, "retried": 1,
                "revoked": 0, "rejected": 0, "failed": {"ValueError": 1},
                "runtime": {"buckets": [0, …], "sum": 1.25}}],
     "waits": [{"queue": "mail", "buckets": [0, …], "sum": 0.5, "unknown": 0}],
     "queues": ["mail"], "paused": [], "slots": 4, "active": 1, "prefetched": 2, "eta": 0, "overrun": 0.0,
     "drains": 1,
     "scaling": {"min": 2, "max": 10, "blocked": false, "ups": 3, "downs": 1}}

``tasks`` and ``waits`` count since the file exists, and so do ``drains``, ``ups`` and ``downs``; the rest is the state
when it was written. ``bounds`` are the upper bounds of all buckets but the last, in seconds. ``counts_tasks`` is false
if this Celery has no place for the hooks. ``runtime`` has the tasks that succeeded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from celery.utils.nodenames import node_format, nodesplit

from celery_fleet.common import json_file
from celery_fleet.common.errors import error_text
from celery_fleet.common.periodic import Periodic
from celery_fleet.common.small_file import DAMAGED, content
from celery_fleet.compat import requests
from celery_fleet.compat import worker as compat_worker
from celery_fleet.delivery.keys import direct_queue
from celery_fleet.worker.task_counts import BOUNDS, LastHour, Recorder, check, total

logger = logging.getLogger("celery_fleet.metrics")

FORMAT = 1

#: What `scaling` counts.
SCALED = ("ups", "downs")

#: Seconds between two writes of the file.
INTERVAL = 10.0


class MetricsFile(Periodic):
    """Writes the file every `INTERVAL` seconds and at the end of the worker.

    Args:
        path: The file.
        worker: Celery's worker.
        recorder: The counts, which continue those of the file.
        counts_tasks: Whether the recorder is told of tasks.
        is_ending: Returns whether the worker drains.
        paused: Returns the queues that operators have paused.
        scaling: Returns ``scaling`` of the document, counted since the worker's start.
    """

    def __init__(
        self,
        path: Path,
        worker: Any,
        recorder: Recorder,
        *,
        counts_tasks: bool,
        is_ending: Callable[[], bool],
        paused: Callable[[], Iterable[str]] = tuple,
        scaling: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        super().__init__("celery_fleet.metrics")
        self._path = path
        self._worker = worker
        self._recorder = recorder
        self._counts_tasks = counts_tasks
        self._is_ending = is_ending
        self._paused = paused
        self._scaling = scaling
        self._scaled = dict.fromkeys(SCALED, 0)
        self._drains = 0
        self._drained = False
        self._told = False
        self._hour = LastHour()

    def start(self) -> None:
        """Read the earlier counts and start to write."""
        try:
            document = json.loads(content(self._path))
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}")
            drains, tasks, waits = document["drains"], document["tasks"], document["waits"]
            scaled = {name: int(document["scaling"][name]) for name in SCALED}
            check(tasks, waits)
            self._recorder.continue_from(tasks, waits)
            self._drains = int(drains)
            self._scaled = scaled
        except FileNotFoundError:
            pass
        except (OSError, *DAMAGED) as error:
            logger.warning(
                "%s can't be read, so its counts start at 0: %s", self._path, error_text(error)
            )
        super().start()

    def turn(self) -> float:
        """Write the file and log the first error; return the seconds until the next write."""
        try:
            self._hour.keep(time.monotonic(), total(*self._recorder.counts()))
            document = self.document()
            try:
                # The exporter is in the application's group.
                json_file.replace(self._path, document, 0o640)
            except OSError:
                # On a full disk the figures stand still, but the exporter still sees that the worker lives.
                with contextlib.suppress(OSError):
                    os.utime(self._path, follow_symlinks=False)
                raise
        except Exception as error:
            if not self._told:
                self._told = True
                trace = None if isinstance(error, OSError) else error
                logger.warning(
                    "%s can't be written: %s", self._path, error_text(error), exc_info=trace
                )
        return INTERVAL

    def last_hour(self) -> dict[str, Any]:
        """Return what was counted in the last hour; see `LastHour.since`."""
        return self._hour.since(time.monotonic(), total(*self._recorder.counts()))

    def end(self) -> None:
        """Stop, and write the last counts unless the disk hangs."""
        self.stop()
        if self._thread is None or not self._thread.is_alive():
            self.turn()

    def document(self) -> dict[str, Any]:
        """Return the content of the file."""
        if self._is_ending() and not self._drained:
            self._drained = True
            self._drains += 1
        node = self._worker.hostname
        pool = self._worker.pool
        tasks, waits = self._recorder.counts()
        view = compat_worker.view_worker(self._worker)
        held = requests.held(self._worker)
        return {
            "format": FORMAT,
            "node": node,
            "worker": nodesplit(node)[0],
            "written": round(time.time(), 3),
            "release": os.environ.get("CELERY_FLEET_RELEASE"),
            "counts_tasks": self._counts_tasks,
            "bounds": BOUNDS,
            "tasks": tasks,
            "waits": waits,
            "queues": [queue for queue in view.queues if queue != direct_queue(node)],
            "paused": sorted(self._paused()),
            "slots": pool.num_processes if pool is not None and pool.active else 0,
            "active": held.active,
            "prefetched": held.prefetched,
            "eta": held.eta,
            "overrun": round(held.overrun, 3),
            "drains": self._drains,
            "scaling": self._counted(self._scaling()),
        }

    def _counted(self, scaling: dict[str, Any]) -> dict[str, Any]:
        return {**scaling, **{n: self._scaled[n] + scaling.get(n, 0) for n in SCALED}}


def install(
    app: Any,
    path: str,
    is_ending: Callable[[], bool],
    others: Iterable[requests.Seen] = (),
    paused: Callable[[], Iterable[str]] = tuple,
    scaling: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Count the tasks of the app's worker; call this before the worker builds its blueprints.

    Args:
        app: The Celery app.
        path: The file, with Celery's abbreviations for a node, such as ``%n`` for its name.
        is_ending: Returns whether the worker drains.
        others: Who else must be told of what happens to requests.
        paused: Returns the queues that operators have paused.
        scaling: Returns the bounds of the pool and how often it has changed.
    """
    recorder = Recorder()
    watchers = (recorder.seen, *others)

    def seen(request: Any, what: str, detail: Any) -> None:
        for watcher in watchers:
            watcher(request, what, detail)

    counts_tasks = requests.follow(seen)
    if not counts_tasks:
        logger.error("tasks can't be counted: this Celery is not supported")

    class Metrics(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Starts the thread once the pool has forked."""

        name = "celery_fleet.Metrics"
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            file = MetricsFile(
                Path(node_format(path, worker.hostname)),
                worker,
                recorder,
                counts_tasks=counts_tasks,
                is_ending=is_ending,
                paused=paused,
                scaling=scaling,
            )
            # Not in this step's stop(): tasks still run after that.
            signals.worker_shutdown.connect(
                lambda **_: file.end(), weak=False, dispatch_uid="celery_fleet.metrics"
            )
            file.start()
            self._file = file

        def info(self, worker: Any) -> dict[str, Any]:
            """Return what ``inspect stats`` shows."""
            return {"fleet_last_hour": self._file.last_hour()}

    app.steps["worker"].add(Metrics)
