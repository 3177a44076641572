"""Print tests' notes at the end of a whole run. A scenario's conftest imports these names, which pytest looks for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

notes_key = pytest.StashKey[list[str]]()


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that adds a line to the end of the whole run, whether or not the test passes."""
    notes = request.config.stash.setdefault(notes_key, [])
    return lambda text: notes.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the notes."""
    if notes := config.stash.get(notes_key, []):
        terminalreporter.section("notes")
        for text in notes:
            terminalreporter.line(text)
