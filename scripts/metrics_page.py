"""Make docs/metrics.md from the table of metrics; `scripts/reference.py` writes it."""

from __future__ import annotations

import textwrap

from celery_fleet.cli.exporter import table

HEAD = """\
# Metrics

<!-- Made by scripts/reference.py from src/celery_fleet/cli/exporter/table.py. -->

Use this page to look up a metric of the exporter, which answers Prometheus on each host. It reads files, asks systemd
and, on one host of a fleet, Redis. It never asks a worker, and listens to no events. If a part of it fails, the series
of that part are missing (except `celery_fleet_redis_up`, which is 0), `celery_fleet_collect_error` is 1, and all others
are there.

Names that don't begin with `celery_fleet_` are those of well-known Celery exporters, with the same meaning. So queries
of dashboards for [celery-exporter](https://github.com/danihodovic/celery-exporter) find them, except
`celery_task_sent_total`: without events nothing counts what is sent. `hostname` and `worker` are the two parts of a
node's name, `worker@hostname`.
"""


def render() -> str:
    """Return the page that lists all metrics."""
    lines = [HEAD]
    bounds = ", ".join(f"{bound:g}" for bound in table.BOUNDS)
    lines += [f"Buckets of all histograms, in seconds: {bounds}."]
    for source in table.SOURCES:
        lines += [
            "",
            f"## {source.title}",
            "",
            *textwrap.wrap(source.text, 120, break_on_hyphens=False),
        ]
        cost = f"Cost of a scrape: {source.cost}."
        if source.parts:
            parts = ", ".join(f"`{part}`" for part in source.parts)
            cost += f" {'Parts' if len(source.parts) > 1 else 'Part'}: {parts}."
        lines += ["", *textwrap.wrap(cost, 120, break_on_hyphens=False)]
        lines += ["", "| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
        for metric in source.metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines) + "\n"
