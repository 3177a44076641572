"""The hosts of Redis are installed again with another server, under load; only in the soak."""

from __future__ import annotations

import pytest
from deaths import LONGEST, assert_delivered, assert_none_replaced, died, pids
from ground import FLEET, Ground
from replicas import wait_until_whole
from upgrades import change, changed

from scripts.restarts import judge

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module", autouse=True)
def three(ground: Ground) -> None:
    """Deploy three hosts of Redis, if no test before has done that."""
    ground.site(ground.results / "deploy.log")
    wait_until_whole(ground)


# From Redis 7 to Valkey 8, and from that to Redis 8. Valkey could not follow Redis 8, whose data it can't read.
@pytest.mark.parametrize("flavor", ["valkey", "redis"])
def test_one_host_after_another_gets_another_server(ground: Ground, flavor: str) -> None:
    before = pids(ground)
    summary = ground.measure(
        f"hosts changed to {flavor}",
        FLEET,
        lambda case: change(ground, case, flavor),
        longest=LONGEST,
    )
    assert_delivered(summary, judge.was_sent_twice(changed(flavor)), *died(changed(flavor)))
    assert_none_replaced(ground, before, pids(ground))
