"""Fixtures of the tests of several applications; `support` has the helpers of all scenarios.

`fleet` runs a test once for each application; `flexi`, `shop` and `flash` are one each. `stage(n)` orders the tests:
first those that only look, then those that disturb one application while the others must not notice.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from support import fleets
from support.applications import (  # noqa: F401  # fixtures and hooks, which pytest finds by their names
    fleet,
    others,
    workshop,
)
from support.inventory import Fleet
from support.order import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_collection_modifyitems,
    pytest_configure,
)


@pytest.fixture(scope="session")
def flexi() -> Fleet:
    """FlexiPrice."""
    return fleets.load("flexiprice")


@pytest.fixture(scope="session")
def shop() -> Fleet:
    """aiecommerce."""
    return fleets.load("aiecommerce")


@pytest.fixture(scope="session")
def flash() -> Fleet:
    """Flash Promos."""
    return fleets.load("flash_promos")


@pytest.fixture(scope="session", autouse=True)
def doomed() -> str:
    """Send a task of Flash Promos that fails and is retried for minutes, before all tests so that none waits for it."""
    return fleets.send(
        fleets.load("flash_promos"), fleets.task("promotions.tasks.robust_task", 404)
    )[0].id
