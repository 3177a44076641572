"""Metrics of a host: its units, releases, disks, memory, certificates, and the result of the health check."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from celery_fleet.cli.exporter.places import MetricPlaces, counted
from celery_fleet.cli.exporter.samples import MetricSample
from celery_fleet.cli.exporter.workers import FRESH, age, labels_of, name_of
from celery_fleet.common import backup_record
from celery_fleet.health import host, result
from celery_fleet.health import units as health_units
from celery_fleet.health.certificates import Validity, ends_of, validities
from celery_fleet.health.setup import Setup, Worker, deployed
from celery_fleet.health.units import MonitoredUnit

#: What becomes of a message that a worker held when it ended.
_OUTCOMES = ("returned", "acknowledged", "parked", "left")

#: Results of a unit that alerts are about. They begin with 0, because `increase()` needs a value before the first one.
_ALERTED_ENDS = {"watchdog": 0}

#: States of a worker whose canary is well: it has come back, or the worker is not supposed to take it now.
_WELL = ("answered", "busy", "paused", "draining")

_STATES = {result.GOOD: 0.0, result.WARNING: 1.0, result.BAD: 2.0}


def own_workers(setup: Setup) -> dict[str, Worker]:
    """Return the workers of this host that are in the inventory, by node."""
    there = deployed(setup).get("workers", setup.workers)
    return {
        node: worker
        for node, worker in setup.workers.items()
        if worker.host == setup.host and node in there
    }


def own_units(setup: Setup) -> list[str]:
    """Return the units of this host that are in the inventory."""
    there = deployed(setup).get("units", setup.units)
    return [
        *(unit for unit in setup.units if unit in there),
        *(worker.unit for worker in own_workers(setup).values()),
        *([str(setup.beat["unit"])] if setup.beat else []),
    ]


def units(
    setup: Setup, places: MetricPlaces, show: health_units.Ask = health_units.show
) -> Iterator[MetricSample]:
    """Yield which units and workers are up, and how often systemd has restarted them.

    Raises:
        OSError: systemd can't be asked.
    """
    found = show(own_units(setup))
    for name, unit in found.items():
        yield MetricSample("celery_fleet_unit_up", float(unit.runs), (name,))
        yield MetricSample("celery_fleet_unit_restarts_total", float(unit.restarts), (name,))
    patience = setup.threshold("starting_seconds").get("bad")
    for node, worker in own_workers(setup).items():
        up = _works(found.get(worker.unit), places.worker(name_of(node)), patience)
        yield MetricSample("celery_worker_up", float(up), labels_of(node))


def _works(unit: MonitoredUnit | None, path: Path, patience: float | None) -> bool:
    """Return whether a worker runs and has not stopped writing its file.

    A file from before this start says nothing: the worker may just have started, or it does not count its tasks. A
    start may take as long as the health check allows, unless systemd starts the worker again after a failure.
    """
    seconds = age(path)
    if unit is None:
        return False
    if unit.active == "deactivating":
        # It drains, for as long as its tasks run, and still writes its file.
        return seconds is not None and seconds <= FRESH
    now = time.monotonic()
    if unit.active == "activating":
        return not unit.restarts and (patience is None or now - unit.began < patience)
    return unit.runs and (seconds is None or not FRESH < seconds < now - unit.up)


def ends(setup: Setup, places: MetricPlaces) -> Iterator[MetricSample]:
    """Yield how often units have ended, by the result.

    Raises:
        OSError, ValueError, LookupError, TypeError: A file is damaged.
    """
    for unit in own_units(setup):
        found = dict(_ALERTED_ENDS)
        with contextlib.suppress(FileNotFoundError):
            found |= counted(places.ends(unit))["results"]
        for ended, number in found.items():
            yield MetricSample("celery_fleet_unit_ends_total", float(number), (unit, ended))


def hand_backs(setup: Setup, places: MetricPlaces) -> Iterator[MetricSample]:
    """Yield what became of the messages that workers held when they ended.

    Raises:
        OSError, ValueError, LookupError, TypeError: A file is damaged.
    """
    for node in own_workers(setup):
        host, name = labels_of(node)
        with contextlib.suppress(FileNotFoundError):
            found = counted(places.hand_backs(name))
            for outcome in _OUTCOMES:
                labels = (host, name, outcome)
                yield MetricSample("celery_fleet_handed_back_total", float(found[outcome]), labels)


def releases(setup: Setup) -> Iterator[MetricSample]:
    """Yield the release that each unit starts from.

    Raises:
        OSError: A link can't be read.
    """
    for unit in own_units(setup):
        # `shop-worker@mail.service` has the link `worker-mail`.
        name = unit.removeprefix(f"{setup.app}-").removesuffix(".service").replace("@", "-", 1)
        with contextlib.suppress(FileNotFoundError):
            release = os.path.basename(os.readlink(setup.root / "pins" / name))
            yield MetricSample("celery_fleet_release_info", 1.0, (unit, release, "pinned"))


def disk(setup: Setup) -> Iterator[MetricSample]:
    """Yield the free space and the free inodes."""
    for path, value in host.disk(setup).value.items():
        free, inodes = value["free_percent"] / 100, value["free_inodes_percent"] / 100
        yield MetricSample("celery_fleet_filesystem_free_ratio", free, (path,))
        yield MetricSample("celery_fleet_filesystem_inodes_free_ratio", inodes, (path,))


def memory(setup: Setup) -> Iterator[MetricSample]:
    """Yield the available memory."""
    percent = host.memory(setup).value["available_percent"]
    yield MetricSample("celery_fleet_memory_available_ratio", percent / 100)


class Certificates:
    """Reads certificates, each again only if its file has changed, because that starts OpenSSL.

    Args:
        paths: Their files.
        site: The file of the web site's certificate. Often only root can read it, so what the health check has found
            there is used.
        checked: The result of the health check.
    """

    def __init__(self, paths: Sequence[str], site: str, checked: Path) -> None:
        self._paths = paths
        self._site, self._checked = site, checked
        self._read: dict[str, tuple[tuple[int, int], list[Validity]]] = {}

    def __call__(self) -> Iterator[MetricSample]:
        """Yield when each certificate expires.

        Raises:
            OSError, CheckError: A file can't be read, or is not a certificate.
            ValueError, LookupError, TypeError: The result of the health check is damaged.
        """
        for path in self._paths:
            about = os.stat(path)
            mark = (about.st_mtime_ns, about.st_ino)
            if path not in self._read or self._read[path][0] != mark:
                self._read[path] = (mark, validities(path))
        ends = ends_of({path: self._read[path][1] for path in self._paths})
        if self._site and (moment := self._end_of_site()):
            ends[self._site] = moment
        for path, moment in ends.items():
            yield MetricSample(
                "celery_fleet_certificate_expiry_timestamp_seconds", moment.timestamp(), (path,)
            )

    def _end_of_site(self) -> datetime | None:
        try:
            found = result.read(self._checked)
        except FileNotFoundError:
            return None
        about = (found["checks"].get("certificates") or {}).get("value") or {}
        return datetime.fromisoformat(about[self._site]["until"]) if self._site in about else None


def health(places: MetricPlaces) -> Iterator[MetricSample]:
    """Yield the result of the last health check; nothing if there was none.

    Raises:
        OSError, ValueError, LookupError, TypeError: The result is damaged.
    """
    try:
        found = result.read(places.health)
    except FileNotFoundError:
        return
    checks: Mapping[str, Mapping[str, object]] = found["checks"]
    yield MetricSample("celery_fleet_health_state", _STATES[found["state"]])
    for name, check in checks.items():
        state = _STATES[str(check["state"])]
        yield MetricSample("celery_fleet_health_check_state", state, (name,))
    checked = datetime.fromisoformat(found["checked"]).timestamp()
    yield MetricSample("celery_fleet_health_checked_timestamp_seconds", checked)
    # A check that failed has no value.
    values: dict[str, Any] = {name: check.get("value") or {} for name, check in checks.items()}
    if clock := values.get("clock"):
        yield MetricSample("celery_fleet_clock_offset_seconds", float(clock["offset_seconds"]))
    for node, canary in values.get("canary", {}).items():
        labels = labels_of(node)
        yield MetricSample("celery_fleet_canary_ok", float(canary["state"] in _WELL), labels)
        if canary["seconds"] is not None:
            yield MetricSample("celery_fleet_canary_seconds", float(canary["seconds"]), labels)


def backup(places: MetricPlaces) -> Iterator[MetricSample]:
    """Yield when Redis was last backed up: 0 if all backups have failed. Before the first, when they were switched on.

    Raises:
        OSError, ValueError: The record or the timer can't be read, or the record is damaged.
    """
    found = backup_record.read(places.backup)
    if found is None:
        enabled = places.backup_timer.stat().st_mtime
        yield MetricSample("celery_fleet_redis_backup_enabled_timestamp_seconds", enabled)
    else:
        last = "celery_fleet_redis_last_backup_timestamp_seconds"
        yield MetricSample(last, found.succeeded)
        yield MetricSample("celery_fleet_redis_last_backup_size_bytes", float(found.bytes))


def change(places: MetricPlaces) -> Iterator[MetricSample]:
    """Yield when a run last changed this host; nothing if none did."""
    with contextlib.suppress(FileNotFoundError):
        changed = places.changed.stat().st_mtime
        yield MetricSample("celery_fleet_last_change_timestamp_seconds", changed)
