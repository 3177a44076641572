"""Fixtures of the tests of an installed collection; `support` has the helpers of all scenarios.

Tests of the deployed fleet come from molecule/shared/tests, with their own conftest. `stage(6)` comes after all their
stages: it changes the fleet, and removes it.
"""

from __future__ import annotations

import pytest
from support.inventory import Fleet, load_fleet
from support.order import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_collection_modifyitems,
    pytest_configure,
)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts under test and what is expected of them."""
    return load_fleet()
