"""What the tests of an installed collection share; `support` holds the means of all scenarios.

Tests of the standing fleet come from molecule/shared/tests, with their own conftest. `stage(6)` is after all stages of
these: it changes the fleet, and takes it away.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))

from support.inventory import Fleet, load_fleet
from support.order import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_collection_modifyitems,
    pytest_configure,
)
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The hosts under test and what is expected of them."""
    return load_fleet()
