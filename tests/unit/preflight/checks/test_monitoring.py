"""Preflight's checks of alert thresholds and SLOs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import monitoring

from tests.unit.preflight.inventory import model, problems, valid


def found(directory: Path, slo: Any = None, **more: Any) -> list[tuple[str, str, str]]:
    """Return variable, message and remedy of each problem of an SLO, or of thresholds."""
    given = valid(directory)
    if slo is not None:
        given["celery_worker_instances"]["discounts"]["slo"] = slo
    return [
        (problem.variable, problem.message, problem.remedy)
        for problem in problems({**given, **more})
        if ".slo" in problem.variable or problem.variable.startswith("celery_monitoring")
    ]


@pytest.mark.parametrize(
    "slo",
    [
        {"wait": "30s", "failures": "1%"},
        {"wait": "0.5s", "objective": "99.99%"},
        {"failures": "0.01%"},
        {"failures": "6%"},
        {"wait": "1h", "objective": "94%"},
        {},
    ],
)
def test_a_measurable_slo_is_accepted(tmp_path: Path, slo: dict[str, str]) -> None:
    assert found(tmp_path, slo, celery_monitoring_thresholds={"queues": {"maintenance": {}}}) == []


@pytest.mark.parametrize(
    ("slo", "key", "message", "remedy"),
    [
        ({"wait": "45s"}, ".wait", "can't be measured", "write 30s or 1m"),
        ({"wait": "3h"}, ".wait", "can't be measured", "write 30m or 1h"),
        ({"wait": 30}, ".wait", "is not a duration", "write it as in 30s or 5m"),
        ({"failures": "7%"}, ".failures", "its alert could never fire", "write 0.01% to 6%"),
        ({"failures": "0.001%"}, ".failures", "is outside 0.01% to 6%", "write 0.01% to 6%"),
        ({"failures": 1}, ".failures", "is not a percentage", "write it with its sign, as in 1%"),
        ({"wait": "30s", "objective": "90%"}, ".objective", "could never fire", "94% to 99.99%"),
        ({"failures": "1%", "objective": "99%"}, ".objective", "is about the wait", "set wait"),
        ({"wate": "30s", "failures": "1%"}, ".wate", "is not a known key", "did you mean wait?"),
        ("30s", "", "is a string, but must be a mapping", "write it as `key: value` pairs"),
    ],
)
def test_an_slo_that_cannot_be_measured_is_refused(
    tmp_path: Path, slo: Any, key: str, message: str, remedy: str
) -> None:
    ((variable, said, told),) = found(tmp_path, slo)
    assert variable == f"celery_worker_instances.discounts.slo{key}"
    assert message in said
    assert remedy in told


def test_an_slo_of_all_workers_is_refused_by_its_variable(tmp_path: Path) -> None:
    ((variable, *_),) = found(tmp_path, celery_worker_defaults={"slo": {"wait": "45s"}})
    assert variable == "celery_worker_defaults.slo.wait"


def test_an_slo_needs_metrics(tmp_path: Path) -> None:
    given = valid(tmp_path)
    given["celery_worker_instances"]["discounts"]["slo"] = {"wait": "30s"}
    found = model(given)
    hosts = {host: {**own, "celery_app_metrics": False} for host, own in found.hosts.items()}
    (problem,) = monitoring.check_slos(replace(found, hosts=hosts))
    assert problem.variable == "celery_worker_instances.discounts.slo"
    assert problem.message == "can't be measured: celery_app_metrics is false"
    assert problem.remedy == "set celery_app_metrics: true, or remove the SLO"


def test_hosts_of_a_worker_share_its_slo(tmp_path: Path) -> None:
    given = valid(tmp_path)
    workers = copy.deepcopy(given["celery_worker_instances"])
    workers["discounts"]["slo"] = {"wait": "30s"}
    (problem,) = monitoring.check_slos(
        model(given, {"worker2": {"celery_worker_instances": workers}})
    )
    assert problem.variable == "celery_worker_instances.discounts.slo"
    assert problem.message == "differs between hosts, but all hosts of a worker share its SLO"


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ({"queue_length": {"bad": 1}}, "queue_length", "is not a known key"),
        ({"queues": {"maintenanc": {"bad": 9}}}, "queues.maintenanc", "no worker consumes"),
        ({"queues": {"maintenance": {"bad": 9}}}, "queues.maintenance", "is bad (9) before"),
        (
            {"queue_age_seconds": {"warning": 3600}},
            "queue_age_seconds",
            "is bad (1800) before it is a warning",
        ),
    ],
)
def test_thresholds_are_checked_like_those_of_health(
    tmp_path: Path, given: dict[str, Any], where: str, message: str
) -> None:
    ((variable, said, _),) = found(tmp_path, celery_monitoring_thresholds=given)
    assert variable == f"celery_monitoring_thresholds.{where}"
    assert message in said
