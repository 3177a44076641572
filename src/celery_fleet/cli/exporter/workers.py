"""Metrics of a worker, from the file that it writes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from celery_fleet.cli.exporter.places import counted
from celery_fleet.cli.exporter.samples import HistogramSample, MetricSample
from celery_fleet.cli.exporter.table import BOUNDS

#: A file that is older than this many seconds says nothing about what its worker does now; it is written every 10 s.
FRESH = 30.0

_COUNTS = ("received", "started", "succeeded", "retried", "revoked", "rejected")


def name_of(node: str) -> str:
    """Return the name of a worker in the inventory."""
    return node.partition("@")[0]


def labels_of(node: str) -> tuple[str, str]:
    """Return the labels `hostname` and `worker` of a node."""
    worker, _, host = node.partition("@")
    return host, worker


def age(path: Path) -> float | None:
    """Return how many seconds ago a worker has written its file; None if there is none."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return None


def worker(node: str, unit: str, path: Path) -> Iterator[MetricSample]:
    """Yield the metrics of a worker.

    Raises:
        OSError, ValueError, LookupError, TypeError: Its file is damaged.
    """
    # The time comes first: a file that is replaced now counts as older than it is.
    seconds = age(path)
    if seconds is None:
        return
    found = counted(path)
    own = labels_of(node)
    yield from _counts(found, own)
    yield MetricSample("celery_fleet_task_metrics", float(bool(found["counts_tasks"])), own)
    if seconds <= FRESH:
        yield from _now(found, own)
        if release := found["release"]:
            yield MetricSample("celery_fleet_release_info", 1.0, (unit, str(release), "running"))


def stand_in(node: str, path: Path) -> Iterator[MetricSample]:
    """Yield what the second instance of a worker, which serves its queues during its restarts, has counted for it.

    Raises:
        OSError, ValueError, LookupError, TypeError: Its file is damaged.
    """
    seconds = age(path)
    if seconds is None:
        return
    with contextlib.suppress(FileNotFoundError):
        found = counted(path)
        yield from _counts(found, labels_of(node))
        if seconds <= FRESH:
            yield from _consumers(found)


def _counts(found: Mapping[str, Any], own: tuple[str, str]) -> Iterator[MetricSample]:
    for task in found["tasks"]:
        yield from _task(task, *own)
    for wait in found["waits"]:
        labels = (*own, str(wait["queue"]))
        yield MetricSample("celery_fleet_task_wait_seconds", _histogram(wait), labels)
        yield MetricSample("celery_fleet_task_wait_unknown_total", float(wait["unknown"]), labels)
    yield MetricSample("celery_fleet_drains_total", float(found["drains"]), own)
    for name, direction in (("ups", "up"), ("downs", "down")):
        number = float(found["scaling"][name])
        yield MetricSample("celery_fleet_worker_scalings_total", number, (*own, direction))


def _task(task: Mapping[str, Any], host: str, worker: str) -> Iterator[MetricSample]:
    labels = (str(task["name"]), host, worker, str(task["queue"]))
    for what in _COUNTS:
        yield MetricSample(f"celery_task_{what}_total", float(task[what]), labels)
    for exception, number in task["failed"].items():
        yield MetricSample("celery_task_failed_total", float(number), (*labels, exception))
    yield MetricSample("celery_task_runtime", _histogram(task["runtime"]), labels)


def _now(found: Mapping[str, Any], own: tuple[str, str]) -> Iterator[MetricSample]:
    """Yield what the worker did when it wrote the file."""
    yield MetricSample("celery_worker_tasks_active", float(found["active"]), own)
    yield MetricSample("celery_fleet_worker_slots", float(found["slots"]), own)
    scaling = found["scaling"]
    for name in ("min", "max"):
        if name in scaling:  # only once the pool runs
            yield MetricSample(f"celery_fleet_worker_slots_{name}", float(scaling[name]), own)
    blocked = float(bool(scaling["blocked"]))
    yield MetricSample("celery_fleet_worker_scaling_blocked", blocked, own)
    yield MetricSample("celery_fleet_worker_prefetched", float(found["prefetched"]), own)
    yield MetricSample("celery_fleet_worker_eta", float(found["eta"]), own)
    # A worker that started before the exporter was upgraded does not write it.
    yield MetricSample("celery_fleet_task_overrun_seconds", float(found.get("overrun", 0)), own)
    for queue in found["queues"]:
        value = float(queue in found["paused"])
        yield MetricSample("celery_fleet_worker_paused", value, (*own, str(queue)))
    yield from _consumers(found)


def _consumers(found: Mapping[str, Any]) -> Iterator[MetricSample]:
    slots = float(found["slots"])
    queues: Iterable[object] = found["queues"]
    for queue in queues:
        yield MetricSample("celery_active_worker_count", 1.0, (str(queue),))
        yield MetricSample("celery_active_process_count", slots, (str(queue),))


def _histogram(found: Mapping[str, Any]) -> HistogramSample:
    counts = tuple(map(float, found["buckets"]))
    if len(counts) != len(BOUNDS) + 1:
        raise ValueError(f"a histogram has {len(counts)} buckets")
    return HistogramSample(counts, float(found["sum"]))
