"""Order a scenario's tests. A conftest.py imports these hooks by name, and describes its stages."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "stage(n): when a test runs; 0 is the default")


def _stage(item: pytest.Item) -> int:
    marker = item.get_closest_marker("stage")
    return int(marker.args[0]) if marker else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by stage; within a stage the order stays."""
    items.sort(key=_stage)
