"""An unfinished deploy raises its alert. This test comes last, because that takes a quarter of an hour."""

from __future__ import annotations

import time

from prometheus import HalfDeployed, Prometheus
from support.inventory import Fleet
from support.waiting import wait_for


def test_a_half_finished_deploy_is_told(
    fleet: Fleet, prometheus: Prometheus, half_deployed: HalfDeployed
) -> None:
    labels = {
        "alertname": "CeleryReleaseOutdated",
        "host": half_deployed.host,
        "unit": half_deployed.unit,
    }
    left = 16 * 60 + 60 - (time.monotonic() - half_deployed.began)
    wait_for("the release is outdated", max(left, 5), lambda: prometheus.fires(**labels), pause=5)
    fleet.must(half_deployed.host, ["ln", "-sfn", half_deployed.before, half_deployed.pin])
    wait_for("it is not", 120, lambda: not prometheus.fires(**labels), pause=5)
