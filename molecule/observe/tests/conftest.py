"""The fleet of this scenario, and the Prometheus that watches it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from prometheus import HalfDeployed, Prometheus
from support.inventory import Fleet, load_fleet
from support.notes import note, pytest_terminal_summary  # noqa: F401  # a fixture and a hook
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return load_fleet()


@pytest.fixture(scope="session", autouse=True)
def half_deployed(fleet: Fleet) -> HalfDeployed:
    """As if a run had died after it deployed a release for a worker, and before it restarted the worker.

    It begins with the first test, because its alert waits for as long as a deploy may take.
    """
    before = fleet.must(HalfDeployed.host, ["readlink", HalfDeployed.pin]).strip()
    fleet.must(HalfDeployed.host, ["ln", "-sfn", "../releases/0123456789ab", HalfDeployed.pin])
    return HalfDeployed(time.monotonic(), before)


@pytest.fixture(scope="session")
def prometheus(fleet: Fleet) -> Prometheus:
    """Prometheus, once it has scraped every host."""
    found = Prometheus(fleet)
    found.wait_for_all_targets()
    return found
