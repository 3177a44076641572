"""Fixtures of the tests on hosts with two versions of Debian; `support` has the helpers of all scenarios.

Tests of the deployed fleet come from molecule/shared/tests, with their own conftest.
"""

from __future__ import annotations

import pytest
from support.inventory import Fleet, load_fleet


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker by which molecule/shared/tests orders all tests of a run."""
    config.addinivalue_line("markers", "stage(n): when a test runs, 0 (default) to 5")


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts under test and what is expected of them."""
    return load_fleet()
