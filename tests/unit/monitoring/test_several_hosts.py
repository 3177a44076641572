"""Alerts of a fleet with several hosts of Redis and of beat; test_rules.py has their cases run by promtool."""

from __future__ import annotations

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring.files import (
    alerts,
)

from tests.unit.monitoring.fleets import SEVERAL, made

ALERTS = alerts(made(SEVERAL))


def test_only_a_fleet_with_several_hosts_of_redis_may_lack_replicas() -> None:
    found = {
        rule.severity: (rule.expr, rule.summary)
        for rule in ALERTS
        if rule.alert == "CeleryRedisReplicas"
    }
    metric = 'celery_fleet_redis_replicas{app="shop"}'
    assert found == {
        "warning": (f"{metric} <= 1", "The primary of $redis has at most 1 of 2 replicas."),
        "critical": (f"{metric} <= 0", "The primary of $redis has at most 0 of 2 replicas."),
    }
    assert "CeleryRedisReplicas" not in {rule.alert for rule in alerts(made())}
