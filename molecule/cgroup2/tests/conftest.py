"""What the tests of the emulated machine share; `support` holds the means of all scenarios.

All runs some ten times slower there than in containers: limits of time bound what hangs, and measure nothing.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

# pytest puts no directory of tests on the path in its mode `importlib`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from ground import Ground
from support.inventory import load_fleet
from support.skips import (  # noqa: F401  # hooks, which pytest finds by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)

notes_key = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """A place for the notes."""
    config.stash[notes_key] = []


@pytest.fixture(scope="session")
def ground() -> Ground:
    """The machine and the fleet on it."""
    return Ground(load_fleet())


@pytest.fixture
def label() -> str:
    """The beginning of names that no other test, and no other run, gives to its tasks."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something at the end of the whole run, whether or not the test passes."""
    return lambda text: request.config.stash[notes_key].append(f"{request.node.name}: {text}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the notes."""
    terminalreporter.section("notes")
    for text in config.stash[notes_key]:
        terminalreporter.line(text)
