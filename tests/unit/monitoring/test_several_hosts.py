"""Alerts of a fleet with several hosts of Redis and of beat; test_rules.py has their cases run by promtool."""

from __future__ import annotations

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring import (
    fleet as monitoring_fleet,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring.files import (
    alerts,
)

from tests.unit.monitoring.fleets import SEVERAL, given, made

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


def test_any_beat_may_be_the_one_that_sends() -> None:
    beats = {(rule.alert, rule.severity): rule.expr for rule in ALERTS if "Beat" in rule.alert}
    tick = 'celery_fleet_beat_tick_timestamp_seconds{app="shop"}'
    up = 'up{app="shop",exporter="fleet",host=~"control1|worker1"} == 1'
    assert beats["CeleryBeatDown", "critical"] == f"absent({tick}) and on () {up}"
    assert ("CeleryBeatDown", "warning") not in beats
    assert {
        beats["CeleryBeatLate", level].split(" >=")[0] for level in ("warning", "critical")
    } == {f"time() - {tick}"}
    overdue = 'celery_fleet_beat_overdue_seconds{app="shop"}'
    assert beats["CeleryBeatOverdue", "critical"].startswith(f"{overdue} >= ")


def test_each_beat_that_is_down_has_a_warning_while_another_one_sends() -> None:
    found = {rule.found["host"]: rule for rule in ALERTS if rule.alert == "CeleryBeatStandbyDown"}
    assert [*found] == SEVERAL["celery_beat"]
    for host, rule in found.items():
        own = f'celery_fleet_beat_tick_timestamp_seconds{{app="shop",host="{host}"}}'
        assert rule.severity == "warning"
        assert rule.expr.startswith(f"absent({own}) and on () up{{")
        # Without any beat, the critical alert comes without these.
        assert [*rule.quiet[0].values()] == [None, None]
    assert "CeleryBeatStandbyDown" not in {rule.alert for rule in alerts(made())}


def test_a_beat_without_an_exporter_can_not_be_missed() -> None:
    facts, variables, instances = given(SEVERAL)
    variables["control1"]["celery_exporter_enabled"] = False
    found = alerts(monitoring_fleet.fleet(facts, variables, instances, runbook=""))
    assert not [rule for rule in found if "Beat" in rule.alert]
