"""An unfinished deploy raises its alert. These tests come last, because that takes a quarter of an hour."""

from __future__ import annotations

import json
from collections.abc import Callable

from prometheus import HalfDeployed, Prometheus, pins
from support import plays
from support.inventory import Fleet
from support.tasks import Task, send, tracer
from support.waiting import wait_for

DIFFERENT = {"alertname": "CeleryReleasesDiffer"}


def test_a_half_finished_deploy_raises_its_alert(
    prometheus: Prometheus, half_deployed: HalfDeployed, note: Callable[[str], None]
) -> None:
    note(f"after {prometheus.wait_for_alert(half_deployed.began, **DIFFERENT):.0f} s or less")


def test_every_query_of_the_dashboard_has_data(fleet: Fleet, prometheus: Prometheus) -> None:
    """Also the query for alerts, because the one above fires."""
    send(fleet, [tracer("observe", "discounts", 0.1)] * 20)
    # It fails: its arguments are missing.
    send(fleet, [Task("app.tasks.my_custom_task", "discounts")])
    dashboard = json.loads((fleet.state / "monitoring/grafana-dashboard.json").read_text())
    queries = {
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    }
    assert len(queries) > 10
    chosen = {"$app": "flexiprice", "$host": ".*", "$queue": ".*", "$__rate_interval": "1m"}
    for name, value in chosen.items():
        queries = {query.replace(name, value) for query in queries}

    def without() -> list[str]:
        return [query for query in queries if not prometheus.query(query)]

    wait_for(
        "every query has data",
        120,
        lambda: not without(),
        pause=5,
        explain=lambda: "\n".join(without()),
    )


def test_the_alert_ends_when_the_deploy_is_finished(
    fleet: Fleet, prometheus: Prometheus, half_deployed: HalfDeployed
) -> None:
    run = plays.play(fleet, "finished")
    assert run.status == 0, run.end
    assert pins(fleet, "celery_beat") == half_deployed.before
    prometheus.wait_for_end(120, **DIFFERENT)
