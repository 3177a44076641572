"""Fixtures of the tests of changes; `support` has their helpers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import pytest
from support import web
from support.change import Fleets
from support.inventory import load_fleet


@pytest.fixture(scope="session")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    """Return the fleet under test, with what changes it."""
    return Fleets(load_fleet(), tmp_path_factory.mktemp("changes"))


@pytest.fixture
def settled(changes: Fleets) -> Generator[None]:
    """Undo a test's changes by a run of site.yml, which must succeed.

    Anything that it leaves is in the plan of the next test, which expects its own changes and no others.
    """
    yield
    restored = changes.site("restored")
    assert restored.run.status == 0, restored.run.end


@pytest.fixture
def requests_meanwhile(changes: Fleets) -> Callable[[], AbstractContextManager[list[int]]]:
    """Send requests to the web process while a block runs; collect the status of each answer, 0 if there was none."""

    return lambda: web.requests_meanwhile(lambda: web.api(changes.fleet, "/api/v1/products"))
