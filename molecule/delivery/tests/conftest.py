"""Fixtures of this scenario's tests; `restarts` has the load and its record."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "restarts" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ground import FLEET, SEED, Ground
from support import resp
from support.inventory import load_fleet

#: Its hooks are those of all scenarios with this load.
pytest_plugins = ["load_hooks"]


@pytest.fixture(scope="session")
def ground() -> Ground:
    """Return the hosts of this scenario; write their broker's version next to the results, for the report."""
    ground = Ground(load_fleet(), "delivery")
    about = {"broker": resp.version(ground.fleet, "broker")}
    (ground.results / "about.json").write_text(json.dumps(about) + "\n")
    return ground


@pytest.fixture(scope="module", autouse=True)
def deployed(ground: Ground) -> None:
    """Deploy the scenario's inventory; a module that needs another fleet overrides this fixture."""
    ground.deploy()
    # The module before may have ended with stock Celery's workers.
    ground.switch(FLEET)


@pytest.fixture(autouse=True)
def nothing_refused(ground: Ground) -> Iterator[None]:
    """Check that Redis refuses the roles' users nothing, whatever a fault makes them do."""
    yield
    assert resp.acl_log(ground.fleet, "broker") == []


@pytest.fixture
def numbers() -> random.Random:
    """Return the same random numbers for each test, independent of earlier tests."""
    return random.Random(SEED)  # noqa: S311  # a load, no secret
