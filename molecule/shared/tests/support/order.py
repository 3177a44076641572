"""The order of a scenario's tests. A conftest.py imports these hooks by name, and says what its stages are."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "stage(n): when a test runs; 0 is the default")


def _stage(item: pytest.Item) -> int:
    marker = item.get_closest_marker("stage")
    return int(marker.args[0]) if marker else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of their stages; the tests of one stage as they came."""
    items.sort(key=_stage)
