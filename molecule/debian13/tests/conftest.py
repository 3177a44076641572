"""Fixtures of the tests on hosts with two versions of Debian; `support` has the helpers of all scenarios.

Tests of the deployed fleet come from molecule/shared/tests, with their own conftest.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))

from support.inventory import Fleet, load_fleet
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker by which molecule/shared/tests orders all tests of a run."""
    config.addinivalue_line("markers", "stage(n): when a test runs, 0 (default) to 5")


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts under test and what is expected of them."""
    return load_fleet()


@pytest.fixture
def label() -> str:
    """Return a prefix for names of tasks that no other test and no other run uses."""
    return uuid.uuid4().hex[:12]
