"""Fixtures of the tests with several beats."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from beats import Beats
from support.inventory import load_fleet


@pytest.fixture(scope="session")
def beats() -> Beats:
    """Return the beats of the fleet."""
    return Beats(load_fleet())
