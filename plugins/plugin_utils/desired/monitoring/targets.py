"""What Prometheus scrapes, and an example of how Alertmanager tells people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .fleet import MonitoredFleet
from .rule import CRITICAL, INTERVAL, WARNING

# Labels that say what an alert is about.
_ABOUT: Final = (
    *("host", "hostname", "worker", "queue_name", "name", "unit", "redis", "check"),
    *("path", "file", "entry", "slo"),
)


def targets(fleet: MonitoredFleet) -> list[dict[str, Any]]:
    """Return the targets for `file_sd_configs`. Exporters on their host's loopback are not among them."""
    found = []
    for host in fleet.hosts.values():
        if not host.address:
            continue
        # Dashboards for other exporters of Celery select by `namespace`.
        labels = {"app": fleet.app, "namespace": fleet.app, "host": host.name}
        found.append({"targets": [host.address], "labels": {**labels, "exporter": "fleet"}})
        found += [
            {
                "targets": [host.address],
                "labels": {**labels, **own, "__metrics_path__": f"/{path}"},
            }
            for path, own in host.others.items()
        ]
    return found


def scrape(fleet: MonitoredFleet, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job that scrapes the targets.

    Args:
        fleet: The fleet.
        variables: Variables of its collector, with the name of the scraper.
    """
    directory = f"/etc/prometheus/celery-fleet/{fleet.app}"
    return {
        "scrape_configs": [
            {
                "job_name": f"celery-fleet-{fleet.app}",
                "scheme": "https",
                "scrape_interval": f"{INTERVAL}s",
                "tls_config": {"ca_file": f"{directory}/ca.crt"},
                "basic_auth": {
                    "username": variables.get("celery_exporter_auth_user", "prometheus"),
                    "password_file": f"{directory}/password",
                },
                "file_sd_configs": [{"files": [f"{directory}/targets.json"]}],
                "relabel_configs": [{"source_labels": ["host"], "target_label": "instance"}],
            }
        ]
    }


def alertmanager() -> dict[str, Any]:
    """Return an example configuration for Alertmanager. Replace its receivers; keep the inhibition rules."""
    return {
        "route": {
            "receiver": "team",
            "group_by": ["app", "alertname"],
            "routes": [{"matchers": [f"severity={CRITICAL}"], "receiver": "pager"}],
        },
        "receivers": [{"name": "team"}, {"name": "pager"}],
        "inhibit_rules": [
            {
                "source_matchers": [f"severity={CRITICAL}"],
                "target_matchers": [f"severity={WARNING}"],
                "equal": ["app", "alertname", *_ABOUT],
            },
            {
                # Workers go on without the cache or the results, and then have troubles of their own.
                "source_matchers": ["alertname=CeleryRedisDown", "redis=broker"],
                "target_matchers": ["alertname=~Celery(Queue|Worker|Canary).*"],
                "equal": ["app"],
            },
            {
                "source_matchers": ["alertname=CeleryExporterDown"],
                "target_matchers": [f"severity={WARNING}"],
                "equal": ["app", "host"],
            },
        ],
    }
