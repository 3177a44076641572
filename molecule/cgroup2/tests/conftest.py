"""Fixtures of the tests on the emulated machine; `support` has the helpers of all scenarios.

Everything is about ten times slower there than in containers. Timeouts only stop what hangs, and measure nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ground import Ground
from support.inventory import load_fleet
from support.notes import (  # noqa: F401  # a fixture and a hook, which pytest finds by their names
    note,
    pytest_terminal_summary,
)


@pytest.fixture(scope="session")
def ground() -> Ground:
    """Return the machine and the fleet on it."""
    return Ground(load_fleet())
