"""The alerts about units, Redis, hosts and releases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from ..health import Threshold
from .fleet import MonitoredFleet, grouped, quoted
from .rule import CRITICAL, INTERVAL, MINUTE, WARNING, Rule, Series, at, counted, graded, one, plain

DAY: Final = 24 * 60 * MINUTE
# After a boot the result is old until the first check has ended: templates/systemd/health.timer.j2 waits for two
# minutes and a random delay of up to half a minute, and health.service.j2 gives the check one minute.
_FIRST_CHECK: Final = 5 * MINUTE
# Releases may differ for as long as a deploy takes.
_DEPLOY: Final = 15 * MINUTE


def rules(fleet: MonitoredFleet) -> Iterator[Rule]:
    """Yield the alerts about units, Redis, hosts and releases."""
    for part in (_units, _redis, _replicas, _backups, _hosts, _releases):
        yield from part(fleet)


def _units(fleet: MonitoredFleet) -> Iterator[Rule]:
    host, unit = fleet.collector, f"{fleet.app}-worker@mail.service"
    again = "a-worker-restarts-again-and-again"
    yield counted(
        fleet,
        "CeleryUnitRestarting",
        "celery_fleet_unit_restarts_total",
        2,
        host=host,
        found={"unit": unit},
        summary="systemd has restarted $unit on $host more than twice in fifteen minutes.",
        section=again,
    )
    yield counted(
        fleet,
        "CeleryWatchdogKill",
        "celery_fleet_unit_ends_total",
        0,
        host=host,
        found={"unit": unit, "result": "watchdog"},
        summary="systemd has replaced $unit on $host, which showed no sign of life.",
        section=again,
    )


def _redis(fleet: MonitoredFleet) -> Iterator[Rule]:
    labels = {"host": fleet.collector, "redis": "broker"}
    answers, used, most = (
        fleet.of(f"celery_fleet_redis_{what}", **labels)
        for what in ("up", "memory_used_bytes", "memory_max_bytes")
    )
    yield Rule(
        "CeleryRedisDown",
        CRITICAL,
        f"{fleet.of('celery_fleet_redis_up')} == 0",
        MINUTE / 2,
        1.25 * MINUTE,
        "Redis does not answer $host: $redis.",
        "redis-is-down",
        calm={answers: at(1)},
        fires=({answers: at(0)},),
        found=labels,
    )
    # The cache evicts keys, so it is always full.
    no_cache = 'redis!="cache"'
    yield from graded(
        fleet.threshold("redis_memory_percent"),
        lambda _: (
            f"100 * {fleet.of('celery_fleet_redis_memory_used_bytes', no_cache)}"
            f" / ({fleet.of('celery_fleet_redis_memory_max_bytes', no_cache)} > 0)"
        ),
        lambda _, share: {used: at(share), most: at(100)},
        alert="CeleryRedisFull",
        hold=MINUTE,
        within=2 * MINUTE,
        summary="Redis uses {} % or more of its memory: $redis.",
        section="redis-is-full",
        found=lambda _: labels,
    )


def _replicas(fleet: MonitoredFleet) -> Iterator[Rule]:
    if not fleet.replicas:
        return
    labels = {"host": fleet.collector, "redis": "broker"}
    yield from graded(
        # A primary without replicas answers, but accepts no task.
        Threshold(fleet.replicas - 1, 0, low=True),
        lambda _: fleet.of("celery_fleet_redis_replicas"),
        one(fleet.of("celery_fleet_redis_replicas", **labels)),
        alert="CeleryRedisReplicas",
        hold=MINUTE,
        within=2 * MINUTE,
        summary=f"The primary of $redis has at most {{}} of {fleet.replicas} replicas.",
        section="redis-has-no-primary-or-lacks-replicas",
        found=lambda _: labels,
    )


def _backups(fleet: MonitoredFleet) -> Iterator[Rule]:
    last = "celery_fleet_redis_last_backup_timestamp_seconds"
    # Before the first one, their age counts from when they were switched on.
    enabled = "celery_fleet_redis_backup_enabled_timestamp_seconds"
    bounds = {}
    for host in fleet.hosts.values():
        intervals = host.thresholds["backup_intervals"]
        if host.backup:
            times = {level: n and n * host.backup for level, n in intervals.items()}
            bounds[host.name] = Threshold(**times)
    for rule in graded(
        bounds,
        # A time that is still to come, because the clock was ahead, is no better than one as long ago.
        lambda hosts: f"abs(time() - ({fleet.of(last, hosts)} or {fleet.of(enabled, hosts)}))",
        # Its age stays the same: it grows as fast as time, which begins at 0.
        lambda host, seconds: {fleet.of(last, host=host): at(-seconds, INTERVAL)},
        label="host",
        out_of=bounds,
        found=lambda host: {"host": host},
        alert="CeleryBackupOld",
        hold=MINUTE,
        within=2 * MINUTE,
        summary="There has been no good backup of Redis on $host for {} s or more.",
        section="redis-is-not-backed-up",
    ):
        ((series, age),) = rule.fires[0].items()
        never = {series: None, series.replace(last, enabled): age}
        yield replace(rule, fires=(*rule.fires, never))


def _hosts(fleet: MonitoredFleet) -> Iterator[Rule]:
    expiry, file = "celery_fleet_certificate_expiry_timestamp_seconds", "/etc/celery-fleet/host.crt"
    yield from graded(
        fleet.by_host("certificate_days"),
        lambda hosts: f"({fleet.of(expiry, hosts)} - time()) / {plain(DAY)}",
        # Time begins at 0 and goes on.
        lambda host, days: {fleet.of(expiry, host=host, file=file): at(days * DAY, INTERVAL)},
        label="host",
        out_of=fleet.hosts,
        found=lambda host: {"host": host, "file": file},
        alert="CeleryCertificateExpires",
        hold=MINUTE,
        within=2 * MINUTE,
        summary="$file on $host is valid for {} days or less.",
        section="a-certificate-expires-or-has-expired",
    )
    for alert, name, metric, what in (
        ("CeleryDiskFull", "disk_free_percent", "celery_fleet_filesystem_free_ratio", "free"),
        (
            *("CeleryInodesFull", "inodes_free_percent"),
            *("celery_fleet_filesystem_inodes_free_ratio", "of inodes free"),
        ),
    ):
        yield from graded(
            fleet.by_host(name),
            partial(_percent, fleet, metric),
            partial(_path, fleet, metric),
            label="host",
            out_of=fleet.hosts,
            found=lambda host: {"host": host, "path": "/var/log"},
            alert=alert,
            hold=MINUTE,
            within=2 * MINUTE,
            summary=f"The filesystem of $path on $host has {{}} % {what} or less.",
            section="a-disk-is-full",
        )
    checked = {name: host.stale for name, host in fleet.hosts.items() if host.stale}
    for host in [*checked][:1]:
        metric = "celery_fleet_health_check_state"
        state = fleet.of(metric, host=host, check="database")
        # One alert for each check: the host's own state would hide a check that turns bad after another one.
        yield Rule(
            "CeleryHealthBad",
            WARNING,
            f"{fleet.of(metric)} == 2",
            0,
            6 * MINUTE,
            "The health check $check of $host is bad.",
            "first",
            calm={state: at(1)},
            fires=({state: at(2)},),
            found={"host": host, "check": "database"},
        )
    for stale, hosts, (host, *_) in grouped("host", checked, fleet.hosts):
        metric = "celery_fleet_health_checked_timestamp_seconds"
        series, answers = fleet.of(metric, host=host), fleet.of("up", host=host, exporter="fleet")
        up, result = fleet.of("up", hosts, exporter="fleet"), fleet.of(metric, hosts)
        yield Rule(
            "CeleryHealthStale",
            WARNING,
            f"max by (app, host) ({up} == 1 unless on (app, host) {result}) "
            f"or max by (app, host) (time() - {result}) > {plain(stale)}",
            _FIRST_CHECK,
            stale + _FIRST_CHECK + MINUTE,
            "The health check of $host has left no result for two intervals.",
            "the-health-unit-has-failed",
            calm={series: at(-stale, INTERVAL), answers: at(1)},
            fires=({series: at(0)}, {series: None}),
            quiet=({series: None, answers: at(0)},),
            found={"host": host},
            labels={"threshold": plain(stale)},
        )


def _percent(fleet: MonitoredFleet, metric: str, hosts: str) -> str:
    return f"100 * {fleet.of(metric, hosts)}"


def _path(fleet: MonitoredFleet, metric: str, host: str, percent: float) -> Series:
    return {fleet.of(metric, host=host, path="/var/log"): at(percent / 100)}


def _releases(fleet: MonitoredFleet) -> Iterator[Rule]:
    metric = "celery_fleet_release_info"
    hold = max(_DEPLOY, fleet.drain + 5 * MINUTE)
    host = fleet.collector
    worker, web = f"{fleet.app}-worker@mail.service", f"{fleet.app}-web.service"
    # Only workers say what they run; a deploy pins the release of the others and restarts them at once.
    others = rf"unit=~{quoted(re.escape(fleet.app) + '-(beat|web)' + re.escape('.service'))}"
    workers, rest = fleet.of(metric, state="running"), fleet.of(metric, others, state="pinned")
    running, pinned, running_too, other = (
        fleet.of(metric, host=host, unit=name, release=release, state=state)
        for name, release, state in (
            (worker, "one", "running"),
            (worker, "one", "pinned"),
            (f"{fleet.app}-worker@bulk.service", "one", "running"),
            (web, "two", "pinned"),
        )
    )
    shared: dict[str, Any] = {
        "severity": WARNING,
        "hold": hold,
        "within": hold + MINUTE,
        "section": "a-deploy-is-half-finished",
    }
    yield Rule(
        alert="CeleryReleaseOutdated",
        expr=f"{workers} unless on (host, unit, release) {fleet.of(metric, state='pinned')}",
        summary="$unit on $host runs the release $release, but another one was deployed there.",
        calm={running: at(1), pinned: at(1)},
        fires=({pinned: None},),
        found={"host": host, "unit": worker, "release": "one", "state": "running"},
        **shared,
    )
    yield Rule(
        alert="CeleryReleasesDiffer",
        expr=(
            f"count by (app, host, release) ({workers} or {rest}) unless on (app, release) "
            f"topk by (app) (1, count by (app, release) ({workers})) and on (app) {workers}"
        ),
        summary="Processes on $host have the release $release, but most workers run another one.",
        calm={running: at(1), running_too: at(1)},
        fires=({other: at(1)},),
        found={"host": host, "release": "two"},
        **shared,
    )
