"""What the scenarios of several applications share: fixtures for whatever application it is.

A scenario's conftest imports all of it by name, and adds a fixture for each of its own applications.
"""

from __future__ import annotations

import uuid

import pytest

from support import fleets
from support.inventory import Fleet


@pytest.fixture(params=fleets.NAMES)
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """Each of the applications."""
    return fleets.load(request.param)


@pytest.fixture
def others(fleet: Fleet) -> tuple[Fleet, ...]:
    """The applications beside `fleet`."""
    return tuple(other for other in map(fleets.load, fleets.NAMES) if other is not fleet)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> fleets.Workshop:
    """Runs of site.yml with something changed."""
    return fleets.Workshop(tmp_path_factory.mktemp(fleets.SCENARIO))


@pytest.fixture
def label() -> str:
    """A name that no other test, and no other run, gives to anything."""
    return uuid.uuid4().hex[:12]
