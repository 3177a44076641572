"""The pages cover the alerts: each alert is listed, and its section of the runbook exists."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring import (
    dashboard,
    objectives,
    slo,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring.files import (
    alerts,
)

from celery_fleet.cli.exporter import table
from celery_fleet.cli.exporter.table import METRICS
from celery_fleet.worker import task_counts
from tests.unit.monitoring.fleets import SEVERAL, made

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALERTS = [*alerts(made()), *alerts(made(SEVERAL))]


def test_the_runbook_has_a_section_for_each_alert() -> None:
    headings = re.findall(r"^#+ (.*)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
    assert {rule.section for rule in ALERTS} - anchors == set()


def test_the_page_lists_each_alert_with_its_severity() -> None:
    table = (DOCS / "monitoring.md").read_text().split("## Alerts")[1]
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (\w+) \|[^|]*\|$", table, re.MULTILINE))
    assert listed.keys() == {rule.alert for rule in ALERTS}
    for rule in ALERTS:
        assert listed[rule.alert] in (rule.severity, "both") or rule.alert == "CeleryDeadLetters"


def test_the_page_says_how_soon_an_alert_comes() -> None:
    table = (DOCS / "monitoring.md").read_text().split("## Alerts")[1]
    found = re.findall(r"^\| `(\w+)` \|.*\| (\d+) (s|min)[^|]*\|$", table, re.MULTILINE)
    told = {name: int(number) * (60 if unit == "min" else 1) for name, number, unit in found}
    for rule in ALERTS:
        # Two intervals come first.
        before = float(rule.expr.split()[-1]) if rule.alert == "CeleryHealthStale" else 0
        assert told[rule.alert] == rule.within - before, rule.alert


def test_rules_and_dashboard_only_use_exported_metrics() -> None:
    """Labels are checked as well; `app` and `host` are the target's."""
    asked = [rule.expr for rule in ALERTS]
    asked += [
        target["expr"]
        for panel in dashboard.dashboard()["panels"]
        for target in panel.get("targets", ())
    ]
    own = {rule["record"] for rule in slo.recorded(made())}
    found = set()
    for expression in asked + [rule["expr"] for rule in slo.recorded(made())]:
        for name, labels in re.findall(r"\b(celery_[\w:]+|up)(?:\{([^}]*)\})?", expression):
            if name == "up" or name in own:
                continue
            about = METRICS.get(name) or METRICS[re.sub("_(bucket|count|sum)$", "", name)]
            given = set(re.findall(r"(\w+)(?:=~?|!=|!~)\"", labels))
            assert given <= {*about.labels, "app", "host", "le"}, (name, given)
            found.add(about.name)
    assert len(found) > 30


def test_all_histograms_have_the_same_buckets() -> None:
    assert objectives.BUCKETS == table.BOUNDS == tuple(map(float, task_counts.BOUNDS))
