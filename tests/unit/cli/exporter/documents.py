"""The files that the exporter reads, as their writers make them, and its answer as Prometheus reads it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import health
from prometheus_client.parser import text_string_to_metric_families

from celery_fleet.health.setup import Setup, Worker

HOST = "worker1"
Labels = frozenset[tuple[str, str]]


def setup(directory: Path, workers: tuple[str, ...] = ("mail",), **more: Any) -> Setup:
    """Return the setup of a host with some workers."""
    given: dict[str, Any] = {
        "app": "shop",
        "host": HOST,
        "user": "shop",
        "interval": 300,
        "checks": (),
        "thresholds": health.merged({}),
        "directory": directory / "etc",
        "root": directory / "opt/shop",
        "runtime": directory,
        "workers": {
            f"{name}@{HOST}": Worker(f"shop-worker@{name}.service", HOST) for name in workers
        },
        "paths": (str(directory),),
    }
    return Setup(**{**given, **more})


def histogram(*values: int, seconds: float = 0.0) -> dict[str, Any]:
    """Return a histogram with counts in its first buckets."""
    return {"buckets": [*values, *[0] * (14 - len(values))], "sum": seconds}


def task(name: str = "shop.pay", queue: str = "mail", **more: Any) -> dict[str, Any]:
    """Return the counts of one task."""
    return {
        "name": name,
        "queue": queue,
        "received": 4,
        "started": 3,
        "succeeded": 1,
        "retried": 1,
        "revoked": 0,
        "rejected": 0,
        "failed": {"ValueError": 1},
        "runtime": histogram(1, 0, 1, seconds=1.25),
        **more,
    }


def worker(name: str = "mail", **more: Any) -> dict[str, Any]:
    """Return what a worker writes."""
    return {
        "format": 1,
        "node": f"{name}@{HOST}",
        "worker": name,
        "written": time.time(),
        "release": "20260101-1",
        "counts_tasks": True,
        "tasks": [task()],
        "waits": [{"queue": "mail", **histogram(2, 1, seconds=0.5), "unknown": 1}],
        "queues": ["mail"],
        "paused": [],
        "slots": 4,
        "active": 1,
        "prefetched": 2,
        "eta": 0,
        "overrun": 12.5,
        "drains": 1,
        "scaling": {"min": 2, "max": 10, "blocked": True, "ups": 3, "downs": 1},
        **more,
    }


def write(path: Path, content: Any, age: float = 0.0) -> None:
    """Write a file, as JSON unless it is a text, that is some seconds old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (time.time() - age,) * 2)


def parsed(text: bytes) -> dict[str, dict[Labels, float]]:
    """Return all values by name and labels. Each may be there once."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            own = found.setdefault(sample.name, {})
            labels = frozenset(sample.labels.items())
            assert labels not in own, (sample.name, labels)
            own[labels] = sample.value
    return found


def labels(**given: str) -> Labels:
    return frozenset(given.items())
