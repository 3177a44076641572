"""Ask the Prometheus and the Alertmanager on prometheus1."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from support.inventory import Fleet
from support.waiting import wait_for

HOST = "prometheus1"


@dataclass(frozen=True)
class HalfDeployed:
    """A worker that was not restarted after a release was deployed for it.

    Attributes:
        began: When that was, by the monotonic clock.
        before: What its pin led to.
    """

    began: float
    before: str
    host: ClassVar = "worker1"
    unit: ClassVar = "flexiprice-worker@maintenance.service"
    pin: ClassVar = "/opt/flexiprice/pins/worker-maintenance"


@dataclass(frozen=True)
class Prometheus:
    """What Prometheus knows of a fleet."""

    fleet: Fleet

    def ask(self, path: str, port: int = 9090) -> Any:
        """Return the answer to a request of its API."""
        url = f"http://127.0.0.1:{port}/{path}"
        return json.loads(self.fleet.must(HOST, ["curl", "--silent", "--fail-with-body", url]))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression, each with `metric` and `value`."""
        found: list[dict[str, Any]] = self.ask(f"api/v1/query?query={quote(expression)}")["data"][
            "result"
        ]
        return found

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of each alert that fires."""
        alerts = self.ask("api/v1/alerts")["data"]["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    def fires(self, **labels: str) -> bool:
        """Return whether an alert with these labels fires."""
        return any(labels.items() <= alert.items() for alert in self.firing())

    def told(self, name: str) -> bool:
        """Return whether Alertmanager has an alert of this name."""
        return any(
            alert["labels"]["alertname"] == name for alert in self.ask("api/v2/alerts", port=9093)
        )

    def wait_for_all_targets(self) -> None:
        """Wait until each host of the fleet was scraped."""
        hosts = set(self.fleet.hosts("fleet"))
        wait_for(
            "every host is scraped",
            90,
            lambda: (
                {series["metric"]["host"] for series in self.query('up{exporter="fleet"} == 1')}
                >= hosts
            ),
            pause=2,
        )
