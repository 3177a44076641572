"""Computes the setup of a host's health check, with its thresholds: `/etc/celery-fleet/<app>/health.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .facts import Facts, instances, log_directory

FORMAT = 1


class Threshold(NamedTuple):
    """Values from which something is a warning or bad; None means never. Times are in seconds."""

    warning: float | None
    bad: float | None
    # Whether lower values are worse.
    low: bool = False

    @property
    def bounds(self) -> dict[str, float | None]:
        """Both values, as the inventory writes them."""
        return {"warning": self.warning, "bad": self.bad}


THRESHOLDS: dict[str, Threshold] = {
    "database_seconds": Threshold(2, 8),
    "redis_seconds": Threshold(1, 5),
    # For an instance that does not evict.
    "redis_memory_percent": Threshold(80, 95),
    # For each filesystem that the fleet writes to.
    "disk_free_percent": Threshold(15, 5, low=True),
    "disk_free_mb": Threshold(1000, 250, low=True),
    "inodes_free_percent": Threshold(15, 5, low=True),
    "memory_available_percent": Threshold(10, 4, low=True),
    # Full swap is not a fault by itself.
    "swap_used_percent": Threshold(80, None),
    # The load average of five minutes.
    "load_per_core": Threshold(4, 20),
    # How long a unit that should be up has been starting; without its broker a worker never finishes starting.
    "starting_seconds": Threshold(0, 180),
    # How long a test task takes through a worker. After 18 s it counts as lost.
    "canary_seconds": Threshold(5, 15),
    # In addition to celery_beat_max_loop_interval.
    "beat_tick_seconds": Threshold(30, 120),
    "queue_length": Threshold(1000, 10000),
    # A person has to decide about each one, but nothing else waits for that.
    "dead_letters": Threshold(1, None),
    # site.yml renews a certificate pki_renew_before_days before its end, 30 by default.
    "certificate_days": Threshold(21, 7, low=True),
    "logs_mb": Threshold(2000, 10000),
    # The age of the last good backup of Redis, in multiples of the time between two.
    "backup_intervals": Threshold(2, 4),
    # Between this host and the broker's host.
    "clock_offset_seconds": Threshold(2, 30),
}
# The key of thresholds for single queues.
QUEUES = "queues"
_RELEASE = frozenset(("celery_workers", "celery_beat", "celery_producers"))


def merged(
    given: Mapping[str, Any] | None, table: Mapping[str, Threshold] = THRESHOLDS
) -> dict[str, Any]:
    """Return the default thresholds of a table, with each value that the inventory gives in its place."""
    chosen = given or {}
    found: dict[str, Any] = {
        name: {**default.bounds, **(chosen.get(name) or {})} for name, default in table.items()
    }
    found[QUEUES] = {queue: dict(bounds) for queue, bounds in (chosen.get(QUEUES) or {}).items()}
    return found


def setup(
    facts: Facts,
    *,
    interval: float,
    checks: Iterable[str],
    thresholds: Mapping[str, Any] | None,
    on_change: Sequence[str],
    beat_interval: float,
) -> dict[str, Any]:
    """Return the setup of the health check on one host.

    Args:
        facts: The application's facts.
        interval: Seconds between two checks.
        checks: Names of the desired checks; those that don't concern the host are left out.
        thresholds: celery_health_thresholds.
        on_change: celery_health_on_change.
        beat_interval: Seconds after which beat looks at its schedule again.
    """
    app, host, groups, nodes = facts["name"], facts["host"], facts["groups"], facts["nodes"]
    member = {group for group, names in groups.items() if host in names}
    release = bool(member & _RELEASE)
    fleet = host in _fleet_checkers(groups)
    here = any(of["host"] == host for of in nodes.values())
    others = [
        unit
        for unit in facts["units"]
        if not unit.startswith(f"{app}-worker@") and unit != f"{app}-beat.service"
    ]
    concerns = {
        "database": release,
        "kernel": "redis" in member,
        "units": bool(others),
        "workers": release and (here or fleet),
        "canary": release and fleet and bool(nodes),
        "beat": "celery_beat" in member,
        "queues": fleet,
        "dead_letters": fleet,
        "backup": facts["backup"] > 0,
        # The other hosts are compared with the broker's.
        "clock": release and host not in groups.get("redis", ())[:1],
    }
    paths = [
        "/",
        facts["root"],
        facts["state"],
        "/var/lib/celery-fleet",
        "/var/log",
        log_directory(app),
    ]
    if "redis" in member:
        paths.append("/var/lib/celery-fleet-redis")
    certificates = [
        facts["ca"],
        f"{facts['directory']}/pki/host.crt",
        *([facts["client"]["certificate"]] if facts["client"] else []),
    ]
    site = facts["site_certificate"]
    return {
        "format": FORMAT,
        "app": app,
        "host": host,
        "user": facts["user"],
        "directory": facts["directory"],
        "root": facts["root"],
        "interval": interval,
        "checks": [name for name in checks if concerns.get(name, True)],
        "thresholds": merged(thresholds),
        "on_change": [str(word) for word in on_change],
        "fleet": fleet,
        "units": others,
        "workers": {
            node: {"unit": of["unit"], "host": of["host"], "pool": of.get("pool", "prefork")}
            for node, of in sorted(nodes.items())
        },
        "queues": list(facts["queues"]),
        "servers": {
            kind: {"host": str(server["host"]), "port": int(server["port"])}
            for kind, server in instances(facts).items()
        },
        "ca": "" if _in_plain(facts) else facts["redis_ca"],
        "client": dict(facts["client"]),
        "beat": {
            "unit": f"{app}-beat.service",
            "directory": f"/run/{app}-beat",
            "interval": float(beat_interval),
        }
        if "celery_beat" in member
        else None,
        "paths": paths,
        "logs": [log_directory(app), f"/var/log/{app}-flower", f"/var/log/celery-fleet/{app}"],
        "certificates": certificates,
        "site_certificate": "" if site in certificates else site,
        **({"backup": facts["backup"]} if facts["backup"] else {}),
    }


def _in_plain(facts: Facts) -> bool:
    """Return whether the broker is a Redis of the application's own without TLS."""
    return str(facts["broker"].get("url") or "").startswith("redis://")


def _fleet_checkers(groups: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the hosts that check what the whole fleet shares: its queues, and whether all workers are online.

    Redis's host can report queues even if no other host is up; asking workers needs a release.
    """
    asking = [*groups.get("celery_beat", ()), *groups.get("celery_workers", ())]
    return {*groups.get("redis", ())[:1], *asking[:1]}
