"""Fixtures of the tests on the emulated arm64 machine; `support` has the helpers of all scenarios."""

from __future__ import annotations

import pytest
from support.inventory import Fleet, load_fleet


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the fleet, which is one machine."""
    return load_fleet()
