"""Fixtures of this scenario's tests; `restarts` has the load and its record, `delivery` the faults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "restarts" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "delivery" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ground import Ground
from support import resp
from support.inventory import load_fleet

#: Its hooks are those of all scenarios with this load.
pytest_plugins = ["load_hooks"]


@pytest.fixture(scope="session")
def ground() -> Ground:
    """Return the hosts of this scenario."""
    return Ground(load_fleet(), "failover")


@pytest.fixture(scope="module", autouse=True)
def deployed(ground: Ground) -> None:
    """Deploy the scenario's inventory."""
    ground.deploy()


@pytest.fixture(autouse=True)
def nothing_refused(ground: Ground) -> Iterator[None]:
    """Check that neither Redis nor a Sentinel refuses the roles' users anything, whatever a fault makes them do."""
    yield
    hosts = ground.fleet.hosts("redis")
    # A single host has no Sentinel.
    kinds = ("broker", "results", *(["sentinel"] if hosts[1:] else []))
    for host in hosts:
        for kind in kinds:
            assert resp.acl_log(ground.fleet, kind, host) == [], f"{kind} on {host}"
