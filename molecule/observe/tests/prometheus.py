"""Ask the Prometheus and the Alertmanager on prometheus1."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from support.inventory import ROOT, Fleet
from support.waiting import wait_for

HOST = "prometheus1"

#: Seconds that a look at Prometheus takes, twice on a busy machine, and the pause between two.
LOOK = 5

#: Seconds in which Alertmanager has heard of an alert that fires, and of its end: Prometheus sends at each evaluation.
TOLD = 30


def documented(alert: str) -> float:
    """Return the seconds within which docs/monitoring.md says that people are told."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    (row,) = re.findall(rf"^\| `{alert}` \|.*\| (\d+) (s|min)[^|]*\|$", page, re.MULTILINE)
    return float(row[0]) * {"s": 1, "min": 60}[row[1]]


@dataclass(frozen=True)
class HalfDeployed:
    """A run that was killed in the middle.

    Attributes:
        began: When that was, by the monotonic clock.
        before: The releases before the run, as `pins` returns them.
    """

    began: float
    before: dict[str, str]


def pins(fleet: Fleet, *groups: str) -> dict[str, str]:
    """Return the release of each worker, and of beat with the group `celery_beat`, by host and pin."""
    show = "cd /opt/flexiprice/pins && for pin in worker-* beat; do test ! -L $pin || echo $pin $(readlink $pin); done"
    return {
        f"{host} {line.split()[0]}": line.split()[1]
        for group in ("celery_workers", *groups)
        for host in fleet.hosts(group)
        for line in fleet.must(host, show).splitlines()
    }


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

    def told(self, **labels: str) -> bool:
        """Return whether Alertmanager has an alert with these labels that has not ended."""
        alerts = self.ask("api/v2/alerts?active=true", port=9093)
        return any(labels.items() <= alert["labels"].items() for alert in alerts)

    def wait_for_alert(self, began: float, **labels: str) -> float:
        """Wait until an alert fires, within the documented seconds, and Alertmanager has it.

        Args:
            began: When its fault began, by the monotonic clock.
            labels: Its labels.

        Returns:
            The seconds from the fault to the alert in Prometheus.
        """
        left = documented(labels["alertname"]) + LOOK - (time.monotonic() - began)
        wait_for(f"{labels} fires", max(left, 1), lambda: self.fires(**labels), pause=1)
        seconds = time.monotonic() - began
        wait_for(f"Alertmanager has {labels}", TOLD, lambda: self.told(**labels), pause=1)
        return seconds

    def wait_for_end(self, seconds: float, **labels: str) -> None:
        """Wait until an alert no longer fires, and Alertmanager knows that."""
        wait_for(f"{labels} ends", seconds, lambda: not self.fires(**labels), pause=2)
        wait_for(f"Alertmanager ends {labels}", TOLD, lambda: not self.told(**labels), pause=2)

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
