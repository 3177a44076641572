"""An application's facts for tests, as the role celery_app gives them to the filters."""

from __future__ import annotations

from typing import Any, cast

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import (
    BeatSchedule,
    Facts,
    Workers,
)


def facts(name: str = "shop", **given: Any) -> Facts:
    """Return the facts of an application on one host; facts that are not given have minimal values."""
    return cast(
        "Facts",
        {
            "name": name,
            "owner": "tests",
            "module": "app.celery_app",
            "user": name,
            "proxy_group": f"{name}-proxy",
            "directory": f"/etc/celery-fleet/{name}",
            "root": f"/opt/{name}",
            "state": f"/var/lib/{name}",
            "runtime": "/rt",
            "logs": "journal",
            "metrics": False,
            "history": 0,
            "scheduler": "persistent",
            "ca": "/ca.crt",
            "redis_ca": "/ca.crt",
            "client": {},
            "broker": {"host": "redis1", "port": 6379},
            "results": {"host": "redis1", "port": "6380"},
            "redis_service": {},
            "cache": {},
            "delivery": "inherit",
            "settings": {},
            "routes": {},
            "visibility_timeout": 3600,
            "host": "h",
            "components": [],
            "units": [],
            "groups": {},
            "nodes": {},
            "queues": [],
            "external": [],
            "clients": {},
            "backup": 0,
            "site_certificate": "",
            **given,
        },
    )


def workers(instances: Any, **given: Any) -> Workers:
    """Return the workers of a host that takes all of them."""
    made = {"instances": instances, "enabled": [*instances], "defaults": {}, "knobs": {}, **given}
    return cast("Workers", made)


def schedule(entries: Any, **given: Any) -> BeatSchedule:
    """Return beat's schedule, kept as Celery keeps it."""
    made = {
        "policy": "add",
        "scheduler": "persistent",
        "edited": "keep",
        "declared": {},
        "left_out": [],
        **given,
    }
    return cast("BeatSchedule", {"entries": entries, **made})
