"""Fixtures of the tests of hosts that move; `support` has their helpers."""

from __future__ import annotations

import pytest
from support.change import Fleets
from support.inventory import load_fleet


@pytest.fixture(scope="session")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    """Return the fleet under test, with what changes it."""
    return Fleets(load_fleet(), tmp_path_factory.mktemp("changes"))
