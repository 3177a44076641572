"""Stock and atomic workers at the same time, and another lease. Each test deploys the fleet and leaves it like that."""

from __future__ import annotations

import random

import pytest
from conditions import EVENTS, takes
from deaths import (
    PAUSE,
    WORKER_KILLED,
    Recoveries,
    assert_delivered,
    counted,
    died,
    kill_workers,
    lose,
)
from faults import HOST_LOST
from ground import FLEET, SOAK, Case, Ground

#: The default lease in seconds; one test waits for it to expire.
DEFAULT_LEASE = 300
#: Seconds for which a stock worker of this fleet can hold a task: its time limit and its drain.
STOCK_TIMEOUT = 120


@pytest.fixture(scope="module", autouse=True)
def deployed(ground: Ground) -> None:
    """Enable events in the soak form; in the short form the first deploy below does."""
    ground.deploy(variables=EVENTS if SOAK else {})


@pytest.mark.parametrize("new", ["stock", pytest.param("atomic", marks=pytest.mark.soak)])
def test_changing_over(ground: Ground, numbers: random.Random, new: str) -> None:
    """Change the way of fetching under load: first on one host, whose atomic workers are killed, then on all."""
    first, *others = ground.workers
    other = "stock" if new == "atomic" else "atomic"
    atomic = others if new == "stock" else [first]

    def to(case: Case, one: str, rest: str) -> None:
        wanted = {
            "celery_app_visibility_timeout": STOCK_TIMEOUT,
            "celery_worker_fetch": f"{{{{ {one!r} if inventory_hostname == {first!r} else {rest!r} }}}}",
        }
        ground.site(case.log, variables={**EVENTS, **wanted})

    def act(case: Case) -> Recoveries:
        to(case, new, other)
        seen = takes(ground)
        assert seen["atomic"], seen
        assert seen["stock"], seen
        found = kill_workers(ground, case, FLEET, 6 if SOAK else 3, numbers, hosts=atomic)
        ground.sleep(PAUSE)
        to(case, new, new)
        seen = takes(ground)
        assert seen[new], seen
        assert not seen[other], seen
        return found

    summary, _ = counted(ground, f"from {other} to {new} workers", FLEET, act)
    assert_delivered(summary, *died(WORKER_KILLED))


@pytest.mark.soak
def test_default_lease(ground: Ground) -> None:
    """A lost host's tasks are back after its lease, however long it is, and at most 10 s later."""
    found = Recoveries()
    ground.deploy(variables={**EVENTS, "celery_app_visibility_timeout": DEFAULT_LEASE})

    def act(case: Case) -> Recoveries:
        found.seconds.append(lose(ground, case, ground.workers[0], DEFAULT_LEASE + 20))
        return found

    summary, _ = counted(ground, "a host lost with a lease of 300 s", FLEET, act)
    assert_delivered(summary, *died(HOST_LOST))
    # The last renewal was at most a third of the lease ago.
    assert DEFAULT_LEASE / 2 < found.longest <= DEFAULT_LEASE + 10, found.as_dict()
