"""Fixtures of the tests on the emulated arm64 machine; `support` has the helpers of all scenarios."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from support.inventory import Fleet, load_fleet
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the fleet, which is one machine."""
    return load_fleet()
