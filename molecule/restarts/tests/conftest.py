"""Fixtures of this scenario's tests; `ground` has the helpers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`; `support` is that of all scenarios.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ground import Ground
from support.inventory import load_fleet

#: Its hooks are those of all scenarios with this load.
pytest_plugins = ["load_hooks"]


@pytest.fixture(scope="session")
def ground() -> Ground:
    """Return the hosts of this scenario."""
    return Ground(load_fleet())


@pytest.fixture(scope="module", autouse=True)
def deployed(ground: Ground) -> None:
    """Deploy the scenario's inventory, even if another module has deployed something else."""
    ground.deploy()
