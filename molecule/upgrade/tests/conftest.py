"""The load and its record come from `restarts`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "restarts" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ground import FLEET, Ground
from support.change import Fleets
from support.inventory import Fleet, load_fleet

from scripts.restarts.verdicts import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_runtest_logreport,
    pytest_runtest_protocol,
    pytest_runtest_teardown,
)

RATE = 8  # tasks a second
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the upgrade before the tests of the deployed fleet, and the rest after them."""
    items.sort(key=lambda item: (_stage(item), HERE not in item.path.parents))


def _stage(item: pytest.Item) -> int:
    """Return a test's stage; the conftest of molecule/shared/tests orders only by that."""
    marker = item.get_closest_marker("stage")
    return int(marker.args[0]) if marker else 0


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts of this scenario, with what this tree expects of them."""
    return load_fleet()


@pytest.fixture(scope="session")
def ground(fleet: Fleet) -> Ground:
    """Return the load, and the record of what happened to it."""
    found = Ground(fleet, "upgrade")
    found.load_options = (f"--rate={RATE}",)
    # Here are no stock units to stop first.
    found.now_running = FLEET
    return found


@pytest.fixture(scope="session")
def changes(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    """Return what makes plans and runs."""
    return Fleets(fleet, tmp_path_factory.mktemp("changes"))
