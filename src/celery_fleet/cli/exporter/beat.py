"""Metrics of beat, from its tick, its schedule, and its counts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from celery_fleet.beat.loaded import NAME
from celery_fleet.beat.metrics import COUNTERS, shown
from celery_fleet.cli.exporter.places import MetricPlaces, counted, document
from celery_fleet.cli.exporter.samples import MetricSample
from celery_fleet.common.small_file import LARGEST_OF_BEAT
from celery_fleet.health.fleet import last_tick
from celery_fleet.health.setup import Setup

#: The entry with the counts of all that have no series of their own.
OTHER = "other"

_MISSED = ("failed", "late", "collapsed", "skipped")


def tick(setup: Setup) -> Iterator[MetricSample]:
    """Yield when beat last looked at its schedule; nothing if it does not run.

    Raises:
        CheckError: It is not a file.
    """
    ticked = last_tick(_directory(setup))
    if ticked is not None:
        yield MetricSample("celery_fleet_beat_tick_timestamp_seconds", ticked)


def schedule(setup: Setup) -> Iterator[MetricSample]:
    """Yield what beat has loaded; nothing if it does not run.

    Raises:
        OSError, ValueError, LookupError, TypeError: The file is damaged.
    """
    with contextlib.suppress(FileNotFoundError):
        yield from _schedule(document(_directory(setup) / NAME, LARGEST_OF_BEAT))


def counts(places: MetricPlaces) -> Iterator[MetricSample]:
    """Yield what beat has sent and missed.

    Raises:
        OSError, ValueError, LookupError, TypeError: The file is damaged.
    """
    with contextlib.suppress(FileNotFoundError):
        yield from _counts(counted(places.beat, LARGEST_OF_BEAT))


def _directory(setup: Setup) -> Path:
    """Return beat's runtime directory, which is gone if it does not run."""
    return Path((setup.beat or {})["directory"])


def _schedule(found: Mapping[str, Any]) -> Iterator[MetricSample]:
    due = {
        str(entry["name"]): datetime.fromisoformat(entry["due"]).timestamp()
        for entry in found["entries"]
    }
    yield MetricSample("celery_fleet_beat_entries", float(len(due)))
    if found.get("stands_by"):  # it doesn't know what the beat that sends has sent
        return
    if due:
        first = min(due.values())
        yield MetricSample("celery_fleet_beat_next_due_timestamp_seconds", first)
        yield MetricSample("celery_fleet_beat_overdue_seconds", max(0.0, time.time() - first))
    for name in shown(due):
        yield MetricSample("celery_fleet_beat_entry_due_timestamp_seconds", due[name], (name,))


def _counts(found: Mapping[str, Any]) -> Iterator[MetricSample]:
    entries: Mapping[str, Mapping[str, Any]] = found["entries"]
    series = {name: entries[name] for name in shown(entries)}
    # The file of an older beat does not have it.
    other = found.get("other") or dict.fromkeys(COUNTERS, 0)
    if len(entries) > len(series) or any(other.values()):
        # An entry may have this name, too.
        own = series.get(OTHER, dict.fromkeys(COUNTERS, 0))
        series[OTHER] = {counter: own[counter] + other[counter] for counter in COUNTERS}
    for name, counts in series.items():
        yield MetricSample("celery_fleet_beat_sent_total", float(counts["sent"]), (name,))
        for reason in _MISSED:
            number = float(counts[reason])
            yield MetricSample("celery_fleet_beat_missed_total", number, (name, reason))
