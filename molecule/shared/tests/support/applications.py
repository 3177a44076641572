"""Fixtures that the scenarios with several applications share.

A scenario's conftest imports all of them by name, and adds a fixture for each of its own applications.
"""

from __future__ import annotations

import pytest

from support import fleets
from support.inventory import Fleet


@pytest.fixture(params=fleets.NAMES)
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """Return each of the applications in turn."""
    return fleets.load(request.param)


@pytest.fixture
def others(fleet: Fleet) -> tuple[Fleet, ...]:
    """Return the applications other than `fleet`."""
    return tuple(other for other in map(fleets.load, fleets.NAMES) if other is not fleet)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> fleets.Workshop:
    """Return a factory for runs of site.yml with something changed."""
    return fleets.Workshop(tmp_path_factory.mktemp(fleets.SCENARIO))
