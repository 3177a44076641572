"""A fleet whose hosts, queues and workers differ in everything that the rules depend on."""

from __future__ import annotations

from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import workers
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import Facts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring import (
    fleet as monitoring_fleet,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring.files import (
    files,
)

from tests.facts import facts

INSTANCES: dict[str, Any] = {
    "mail": {
        "queues": ["mail", "mail.high"],
        "time_limit": 60,
        "prefetch_multiplier": 1,
        "slo": {"wait": "30s", "failures": "1%"},
    },
    "bulk": {"time_limit": 100, "slo": {"wait": "5m", "objective": "95%", "failures": "1%"}},
    "odd": {},
}
GROUPS = {
    "fleet": ["redis1", "worker1", "worker2", "control1"],
    "redis": ["redis1"],
    "celery_workers": ["worker1", "worker2"],
    "celery_beat": ["control1"],
    "celery_producers": ["control1"],
    "flower": ["control1"],
}
# The same with several hosts of Redis and of beat.
SEVERAL = {
    **GROUPS,
    "redis": ["redis1", "worker1", "worker2"],
    "celery_beat": ["control1", "worker1"],
}
HOSTVARS: dict[str, dict[str, Any]] = {
    "redis1": {
        "redis_backup": {"to": "/mnt/backup", "every": "30min"},
        "celery_exporter_others": {"postgres": "http://127.0.0.1:9187/metrics"},
        "celery_monitoring_thresholds": {"queues": {"odd": {"warning": 7}}},
        "celery_health_thresholds": {
            "queue_length": {"warning": 50},
            "queues": {"bulk": {"warning": None, "bad": 5000}},
            "dead_letters": {"warning": 3, "bad": 3},
        },
    },
    "worker1": {"celery_app_host_names": ["worker1.example.com", "192.0.2.1"]},
    "worker2": {
        "celery_worker_host_instances": ["mail", "odd"],
        "celery_health_thresholds": {"disk_free_percent": {"warning": 30}},
        "celery_health_enabled": False,
        "celery_exporter_listen": "127.0.0.1:9808",
    },
    "control1": {"celery_exporter_port": 9900, "celery_health_interval": 60},
}


def hostvars(**everywhere: Any) -> dict[str, dict[str, Any]]:
    """Return the variables of all hosts."""
    shared = {"celery_app_name": "shop", "celery_exporter_enabled": True, **everywhere}
    return {host: {**shared, **own} for host, own in HOSTVARS.items()}


def given(
    groups: dict[str, list[str]] = GROUPS, **everywhere: Any
) -> tuple[Facts, dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the arguments for a fleet: facts, variables, workers."""
    variables = hostvars(**everywhere)
    nodes = workers.nodes(variables, groups["celery_workers"], INSTANCES)
    queues = sorted({*workers.queues(INSTANCES), "external"})
    found = facts(groups=groups, nodes=nodes, queues=queues, external=["external"], metrics=True)
    return found, variables, INSTANCES


def made(
    groups: dict[str, list[str]] = GROUPS, **everywhere: Any
) -> monitoring_fleet.MonitoredFleet:
    """Return the fleet."""
    return monitoring_fleet.fleet(*given(groups, **everywhere), runbook="")


def written(groups: dict[str, list[str]] = GROUPS, **everywhere: Any) -> dict[str, Any]:
    """Return the files for it."""
    return files(*given(groups, **everywhere))
