"""A run that changes Redis's users is refused while a host of Redis can't be reached: it would keep its old ones."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.comparison import compare
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.left_queues import (
    TASKS_WAIT,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.old_users import refusal
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.plan import PlanItem

REDIS = ("redis1", "redis2", "redis3")
DOWN = {"redis3": "can't be reached: timed out"}


def item(*why: str, host: str = "redis1", kind: str = "broker", action: str = "live") -> PlanItem:
    """Return what a plan says of an instance of Redis."""
    return PlanItem(host, "redis", f"redis@shop-{kind}.service", action, why)


@pytest.mark.parametrize("action", ["live", "restart"])
def test_users_only_change_on_all_hosts_of_redis(action: str) -> None:
    why = compare({"user worker": "1", "setting a": "1"}, {"user worker": "2", "setting a": "2"})
    changes = [item(*why, host=host, action=action) for host in REDIS[:2]]
    words = refusal(changes, {**DOWN, "worker1": "can't be reached: asleep"}, REDIS)
    assert words.startswith(
        "Redis's users would change (redis@shop-broker: user worker changed), but not on redis3 "
        "(can't be reached: timed out). "
    )
    assert "Nothing was changed. Run the same command again once redis3 can be reached; or" in words
    assert refusal(changes, {}, REDIS) == ""
    assert refusal(changes, {"worker1": "can't be reached: asleep"}, REDIS) == ""


def test_each_change_of_users_and_each_host_is_named() -> None:
    changes = [
        item(*compare({}, {"user partner": "1"})),
        PlanItem("redis2", "redis", "shop-sentinel.service", "restart", ("user partner new",)),
    ]
    words = refusal(changes, {**DOWN, "redis4": "can't be reached: no route"}, (*REDIS, "redis4"))
    assert "redis@shop-broker: user partner new; shop-sentinel: user partner new" in words
    assert "redis3 (can't be reached: timed out), redis4 (can't be reached: no route)" in words
    assert "once redis3, redis4 can be reached" in words


@pytest.mark.parametrize(
    "harmless",
    [
        item("setting maxmemory 1mb → 2mb"),
        item("user worker: what was allowed before still is"),
        item(*compare({"user partner": "1"}, {})),
        item(TASKS_WAIT),
        item("new", action="start"),
        # Only the first host has this one.
        item("user web changed", kind="cache"),
        PlanItem("worker1", "celery_worker", "shop-worker@a.service", "restart", ("setting x",)),
    ],
)
def test_any_other_change_may_leave_out_a_host_of_redis(harmless: PlanItem) -> None:
    assert refusal([harmless], DOWN, REDIS) == ""
