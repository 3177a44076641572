"""Fixtures of the tests of a new environment; `support` has the helpers of all scenarios.

Tests of the deployed fleet come from molecule/shared/tests, with their own conftest. `stage(6)` comes after all their
stages: it removes the fleet.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.inventory import Fleet, load_fleet
from support.order import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_collection_modifyitems,
    pytest_configure,
)

PARTS = ("new-env", "database", "site")


def seconds(state: Path) -> dict[str, float]:
    """Return the seconds that each part of the first converge took."""
    found = {}
    for part in PARTS:
        began, ended = map(float, (state / f"{part}.seconds").read_text().split())
        found[part] = ended - began
    return found


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts under test and what is expected of them."""
    return load_fleet()


@pytest.fixture(scope="session")
def environment(fleet: Fleet) -> Path:
    """Return the environment's directory."""
    return fleet.state / "inventories" / "shop"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how long it took from nothing to a deployed fleet."""
    took = seconds(load_fleet().state)
    parts = ", ".join(f"{part} {number:.0f} s" for part, number in took.items())
    terminalreporter.section("from make new-env to a deployed fleet")
    terminalreporter.line(f"{sum(took.values()):.0f} s: {parts}")
