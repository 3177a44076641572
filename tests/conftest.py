"""What a run says of itself at its end."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what this machine could not try, so that nobody takes it for tried."""
    if terminalreporter.config.option.markexpr.strip() != "long":
        return
    from tests.unit.celeries.environments import missing

    lines = missing()
    if lines:
        terminalreporter.section("not tried")
        for line in lines:
            terminalreporter.line(line)
