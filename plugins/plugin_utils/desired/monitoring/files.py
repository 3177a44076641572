"""The files that the playbook `monitoring` writes, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..facts import Facts
from . import beat_rules, dashboard, host_rules, rules, slo, targets
from .fleet import MonitoredFleet, fleet
from .rule import INTERVAL, Rule

RULES = "prometheus-rules.yml"


def files(
    facts: Facts,
    hostvars: Mapping[str, Mapping[str, Any]],
    instances: Mapping[str, Mapping[str, Any] | None],
    runbook_url: str = "",
) -> dict[str, Any]:
    """Return the content of each file, as data; see `fleet.fleet` for the arguments and errors."""
    found = fleet(facts, hostvars, instances, runbook_url)
    return {
        RULES: rules_of(found),
        "rules-tests.yml": tests_of(found),
        "targets.json": targets.targets(found),
        "scrape.yml": targets.scrape(found, hostvars[found.collector]),
        "alertmanager.yml": targets.alertmanager(),
        "grafana-dashboard.json": dashboard.dashboard(),
    }


def alerts(found: MonitoredFleet) -> list[Rule]:
    """Return all alerts of a fleet."""
    return [
        *rules.rules(found),
        *beat_rules.rules(found),
        *host_rules.rules(found),
        *slo.rules(found),
        *slo.unmeasured(found),
    ]


def rules_of(found: MonitoredFleet) -> dict[str, Any]:
    """Return the file of rules. Groups have the fleet's name, so those of several fleets can be told apart."""
    groups = {
        "slo": list(slo.recorded(found)),
        "alerts": [rule.document(found) for rule in alerts(found)],
    }
    return {
        "groups": [
            {"name": f"celery-fleet-{found.app}-{name}", "interval": f"{INTERVAL}s", "rules": group}
            for name, group in groups.items()
            if group
        ]
    }


def tests_of(found: MonitoredFleet) -> dict[str, Any]:
    """Return the tests of the rules. Rules that only differ in their host or worker are tested once."""
    every = alerts(found)
    # What a rule reads would also make others of the same name fire.
    read = {
        name: {metric for rule in every if rule.alert == name for metric in rule.metrics}
        for name in {rule.alert for rule in every}
    }
    different = {(rule.alert, rule.severity, rule.summary): rule for rule in reversed(every)}
    cases = [(read[rule.alert], case) for rule in different.values() for case in rule.cases(found)]
    return {
        "rule_files": [RULES],
        "evaluation_interval": f"{INTERVAL}s",
        "tests": _together(cases),
    }


def _together(cases: Iterable[tuple[set[str], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return cases in as few tests as possible: promtool makes a database for each. None has another's metrics."""
    tests: list[tuple[set[str], dict[str, Any]]] = []
    for metrics, case in cases:
        for seen, test in tests:
            if not seen & metrics:
                seen |= metrics
                for part in ("input_series", "alert_rule_test"):
                    test[part] += case[part]
                break
        else:
            tests.append((set(metrics), case))
    return [test for _, test in tests]
