"""Mistakes are refused before anything changes, with the variable, the reason and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from support import fleets

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(6)


def environment(fleet: Fleet, **more: str) -> dict[str, Any]:
    return {"celery_app_env": {**fleet.of("fleet")["celery_app_env"], **more}}


def analytics(fleet: Fleet, **more: str) -> dict[str, Any]:
    instances = fleet.of("celery_workers")["celery_worker_instances"]
    own = {**(instances["analytics"] or {}), **more}
    return {"celery_worker_instances": {**instances, "analytics": own}}


# Application, what its inventory has instead, and words of the refusal.
CASES: dict[str, tuple[str, Callable[[Fleet], dict[str, Any]], tuple[str, ...]]] = {
    "Redis Cluster": (
        "marketplace_ops",
        lambda fleet: environment(fleet, CELERY_BROKER_URL="redis+cluster://redis1:6379/0"),
        (
            "celery_app_env.CELERY_BROKER_URL",
            "Redis Cluster has no Celery transport",
            "With three hosts in the group redis",
        ),
    ),
    "visibility below the hour": (
        "processing",
        # With a lease this would be long enough.
        lambda _: {"celery_app_visibility_timeout": 3000, "celery_worker_lease": False},
        ("celery_app_visibility_timeout", "3000"),
    ),
    "memory without a number": (
        "marketplace_ops",
        lambda fleet: analytics(fleet, memory_max="lots"),
        ("celery_worker_instances.analytics.memory_max", "lots", "512M"),
    ),
    "firewall by a name": (
        "marketplace_ops",
        lambda _: {"firewall_redis_clients": ["monitoring.example.com"]},
        ("firewall_redis_clients", "is not an address"),
    ),
    "firewall for everybody": (
        "marketplace_ops",
        lambda _: {"firewall_redis_clients": ["0.0.0.0/0"]},
        ("firewall_redis_clients", "would let everyone in"),
    ),
    "what becomes of edited entries": (
        "marketplace_ops",
        lambda _: {"celery_beat_schedule_on_edit": "perhaps"},
        ("celery_beat_schedule_on_edit", "perhaps", "reset"),
    ),
    "threshold of nothing": (
        "processing",
        lambda _: {"celery_health_thresholds": {"no_such_thing": {"bad": 1}}},
        ("celery_health_thresholds", "no_such_thing"),
    ),
}


@pytest.mark.parametrize("title", CASES)
def test_a_mistake_is_refused_before_anything_changes(
    workshop: fleets.Workshop, title: str
) -> None:
    name, variables, words = CASES[title]
    fleet = fleets.load(name)
    before = fleets.Look.at(*map(fleets.load, fleets.NAMES))
    layer = workshop.variables(**variables(fleet))
    run = workshop.site(fleet, f"refused-{title.replace(' ', '-')}", layer)
    assert run.status != 0, "it was not refused"
    message = " ".join(run.text[max(run.text.find("[ERROR]"), 0) :].split())
    assert [word for word in words if word not in message] == [], run.end
    assert "Traceback (most recent call last)" not in run.text, run.end
    assert not any(run.changed.values()), run.end
    before.unchanged()
