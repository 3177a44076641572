"""Fixtures of the tests of hosts that move; `support` has their helpers."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))

from support.change import Fleets
from support.inventory import load_fleet
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture(scope="session")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    """Return the fleet under test, with what changes it."""
    return Fleets(load_fleet(), tmp_path_factory.mktemp("changes"))


@pytest.fixture
def label() -> str:
    """Return a prefix for names of tasks that no other test and no other run uses."""
    return uuid.uuid4().hex[:12]
