"""A quiet fleet raises no alert. This comes first: later tests send tasks that fail, and break things."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from prometheus import HalfDeployed, Prometheus, pins
from support.inventory import Fleet

#: Seconds in which a fleet without a fault raises no alert.
QUIET = 600


def test_nothing_fires_in_a_quiet_fleet(prometheus: Prometheus) -> None:
    """In the first ten minutes of Prometheus, which see the fleet as the deploy has left it."""
    started = datetime.fromisoformat(
        prometheus.ask("api/v1/status/runtimeinfo")["data"]["startTime"]
    )
    time.sleep(max(0.0, (started - datetime.now(UTC)).total_seconds() + QUIET))
    fired = prometheus.query(f'count_over_time(ALERTS{{alertstate="firing"}}[{QUIET}s])')
    assert [series["metric"] for series in fired] == []
    assert prometheus.ask("api/v2/alerts", port=9093) == []


def test_a_run_is_killed_in_the_middle(fleet: Fleet, half_deployed: HalfDeployed) -> None:
    """Its alert waits for as long as a deploy may take, so it begins here and is awaited at the end."""
    now = pins(fleet, "celery_beat")
    assert now.keys() == half_deployed.before.keys()
    moved = {name for name, release in now.items() if release != half_deployed.before[name]}
    assert moved == {name for name in now if " worker-" in name}
