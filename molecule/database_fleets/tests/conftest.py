"""Fixtures of the tests of both applications; `support` has the helpers of all scenarios.

`fleet` runs a test once for each application; `market` and `processing` are one each. `stage(n)` orders the tests: 0
and 1 look and run tasks, 2 changes the schedule, 3 the firewall, 4 stops services and fills disks, 5 stops the broker,
6 deploys other releases and variables, 8 checks what the whole run has left. Each stage leaves both applications up.
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
def market() -> Fleet:
    """marketplace_ops."""
    return fleets.load("marketplace_ops")


@pytest.fixture(scope="session")
def processing() -> Fleet:
    """Return the application processing."""
    return fleets.load("processing")
