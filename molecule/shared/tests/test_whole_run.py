"""What must be true after everything that a run did; this is the last test of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import resp, units

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(5)


def test_fleet_is_up(fleet: Fleet) -> None:
    assert units.down(fleet) == []
    app = fleet.of("fleet")["celery_app_name"]
    # The last health check may have run while a test had stopped something, so check again.
    for name in fleet.hosts("fleet"):
        checked = fleet.execute(name, ["systemctl", "start", f"{app}-health.service"])
        assert checked.status == 0, fleet.execute(name, ["celery-fleet", "health"]).output
    states = {name: fleet.execute(name, "systemctl is-system-running") for name in fleet.hosts()}
    assert {name: done.output.strip() for name, done in states.items()} == dict.fromkeys(
        fleet.hosts(), "running"
    )


@pytest.mark.parametrize("kind", ["broker", "results"])
@pytest.mark.unit("redis@{celery_app_name}-broker.service", "redis")
def test_redis_has_refused_nothing(fleet: Fleet, kind: str) -> None:
    """Tests remove refusals that they provoke from the log; it is also read before Redis restarts."""
    assert resp.acl_log(fleet, kind) == []
