"""What all tests share: Ansible's importer, time limits, and what a run says of itself at its end."""

from __future__ import annotations

import pytest
from ansible.plugins.loader import init_plugin_loader

# Before anything imports from `ansible_collections`: only by Ansible's own importer are the collection's plugins found.
init_plugin_loader([])

# Seconds after which a test hangs: many times what one takes on a busy machine. A test may have its own marker.
LIMITS = {"long": 1800, "slow": 900, "": 300}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its limit; its fixtures count."""
    for item in items:
        if not item.get_closest_marker("timeout"):
            kind = next(kind for kind in LIMITS if not kind or item.get_closest_marker(kind))
            item.add_marker(pytest.mark.timeout(LIMITS[kind]))


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
