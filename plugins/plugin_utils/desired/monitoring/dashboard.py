"""The dashboard for Grafana."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

_APP: Final = 'app="$app"'
_HOST: Final = f'{_APP},host=~"$host"'
_QUEUE: Final = f'{_APP},queue_name=~"$queue"'
_COLUMNS: Final = 2
_WIDTH: Final = 24 // _COLUMNS
_HEIGHT: Final = 8


class DashboardPanel(NamedTuple):
    """A graph over time.

    Attributes:
        title: What it shows.
        unit: Grafana's name of the unit.
        lines: Expression of each line -> its name, with labels in braces.
    """

    title: str
    unit: str
    lines: dict[str, str]


def _by(labels: str, metric: str, selector: str) -> str:
    return f"sum by ({labels}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def _quantile(share: float, by: str, metric: str) -> str:
    return f"histogram_quantile({share}, {_by(f'le, {by}', f'{metric}_bucket', _QUEUE)})"


PANELS: Final = (
    DashboardPanel(
        "SLO: share of tasks that broke it in the last hour",
        "percentunit",
        {f"celery_fleet:slo_bad:ratio_rate1h{{{_APP}}}": "{{worker}} {{slo}}"},
    ),
    DashboardPanel(
        "Alerts",
        "short",
        {f'count by (alertname) (ALERTS{{{_APP},alertstate="firing"}})': "{{alertname}}"},
    ),
    DashboardPanel(
        "Tasks that wait",
        "short",
        {f"celery_queue_length{{{_QUEUE}}}": "{{queue_name}}"},
    ),
    DashboardPanel(
        "Age of the oldest task that waits",
        "s",
        {f"celery_fleet_queue_oldest_seconds{{{_QUEUE}}}": "{{queue_name}}"},
    ),
    DashboardPanel(
        "Tasks started per second",
        "ops",
        {_by("queue_name", "celery_task_started_total", _QUEUE): "{{queue_name}}"},
    ),
    DashboardPanel(
        "Tasks ended per second",
        "ops",
        {
            _by("app", f"celery_task_{end}_total", _QUEUE): end
            for end in ("succeeded", "failed", "retried", "rejected")
        },
    ),
    DashboardPanel(
        "Wait from sending to start",
        "s",
        {
            _quantile(share, "queue_name", "celery_fleet_task_wait_seconds"): name
            for share, name in ((0.5, "{{queue_name}} median"), (0.99, "{{queue_name}} 99 %"))
        },
    ),
    DashboardPanel(
        "Run time, 95 %",
        "s",
        {_quantile(0.95, "name", "celery_task_runtime"): "{{name}}"},
    ),
    DashboardPanel(
        "Failures per second",
        "ops",
        {_by("name, exception", "celery_task_failed_total", _QUEUE): "{{name}} {{exception}}"},
    ),
    DashboardPanel(
        "Workers up",
        "short",
        {f"celery_worker_up{{{_HOST}}}": "{{worker}}@{{host}}"},
    ),
    DashboardPanel(
        "Busy processes",
        "percentunit",
        {
            f"celery_worker_tasks_active{{{_HOST}}} / celery_fleet_worker_slots{{{_HOST}}}": "{{worker}}@{{host}}"
        },
    ),
    DashboardPanel(
        "Tasks that workers hold",
        "short",
        {
            f"celery_fleet_worker_prefetched{{{_HOST}}}": "{{worker}}@{{host}} prefetched",
            f"celery_fleet_messages_held{{{_APP}}}": "all",
            f"celery_fleet_dead_letters{{{_APP}}}": "dead letters",
        },
    ),
    DashboardPanel(
        "Beat: behind its schedule",
        "s",
        {
            f"time() - celery_fleet_beat_tick_timestamp_seconds{{{_APP}}}": "last tick",
            f"celery_fleet_beat_overdue_seconds{{{_APP}}}": "overdue entry",
        },
    ),
    DashboardPanel(
        "Beat: entries sent per second",
        "ops",
        {_by("entry", "celery_fleet_beat_sent_total", _APP): "{{entry}}"},
    ),
    DashboardPanel(
        "Redis: memory",
        "percentunit",
        {
            f"celery_fleet_redis_memory_used_bytes{{{_APP}}} / celery_fleet_redis_memory_max_bytes{{{_APP}}}": (
                "{{redis}}"
            )
        },
    ),
    DashboardPanel(
        "Redis: time of an answer",
        "s",
        {f"celery_fleet_redis_seconds{{{_APP}}}": "{{redis}}"},
    ),
    DashboardPanel(
        "Free on filesystems",
        "percentunit",
        {f"celery_fleet_filesystem_free_ratio{{{_HOST}}}": "{{host}} {{path}}"},
    ),
    DashboardPanel(
        "Certificates: time left",
        "s",
        {
            f"celery_fleet_certificate_expiry_timestamp_seconds{{{_HOST}}} - time()": "{{host}} {{file}}"
        },
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard, the same for all fleets: it asks Prometheus for their names."""
    source = {"type": "prometheus", "uid": "${source}"}
    variables: list[dict[str, Any]] = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    ]
    for name, query, several in (
        ("app", "label_values(celery_fleet_build_info, app)", False),
        ("host", f"label_values(celery_fleet_build_info{{{_APP}}}, host)", True),
        ("queue", f"label_values(celery_queue_length{{{_APP}}}, queue_name)", True),
    ):
        variables.append(
            {
                "name": name,
                "type": "query",
                "datasource": source,
                "query": query,
                # When the range of time changes.
                "refresh": 2,
                "includeAll": several,
                "multi": several,
                **({"current": {"text": "All", "value": "$__all"}} if several else {}),
            }
        )
    return {
        "title": "Celery Fleet",
        "uid": "celery-fleet",
        "schemaVersion": 36,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables},
        "panels": [
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {
                    "x": number % _COLUMNS * _WIDTH,
                    "y": number // _COLUMNS * _HEIGHT,
                    "w": _WIDTH,
                    "h": _HEIGHT,
                },
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend}
                    for index, (expr, legend) in enumerate(panel.lines.items())
                ],
            }
            for number, panel in enumerate(PANELS)
        ],
    }
