"""Hooks of all scenarios with this load, a plugin of pytest that their conftest.py name.

There are two modes: `make soak-…` runs each case separately and often, `make test-…` short ones with several faults
each. A test without a marker is run in both. Each run gets the verdict of its tests.
"""

from __future__ import annotations

import pytest
from ground import SOAK

from scripts.restarts.verdicts import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_runtest_logreport,
    pytest_runtest_protocol,
    pytest_runtest_teardown,
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "soak: is only run by `make soak` and `make soak-…`")
    config.addinivalue_line("markers", "short: is only run by `make test-…` and `make test-all`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the other mode."""
    other = "short" if SOAK else "soak"
    left_out = [item for item in items if item.get_closest_marker(other)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
