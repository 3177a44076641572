"""The fleet of this scenario, and the Prometheus that watches it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from prometheus import Prometheus
from support.inventory import Fleet, load_fleet
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return load_fleet()


@pytest.fixture(scope="session")
def prometheus(fleet: Fleet) -> Prometheus:
    """Prometheus, once it has scraped every host."""
    found = Prometheus(fleet)
    found.wait_for_all_targets()
    return found
