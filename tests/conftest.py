"""Settings for all tests: Ansible's importer, time limits, and notes at the end of a run."""

from __future__ import annotations

import gc
from importlib.util import find_spec

import pytest

from scripts.restarts import origin

# Some tests run once more in virtualenvs of other minors of Celery, which have no Ansible (tests/unit/celeries).
if find_spec("ansible"):
    from ansible.plugins.loader import init_plugin_loader

    # Call this before anything imports from `ansible_collections`: only Ansible's importer finds the collection's
    # plugins.
    init_plugin_loader([])

# Seconds after which a test counts as hanging: many times what it takes on a busy machine. A test may set its own
# limit.
LIMITS = {"long": 1800, "slow": 900, "": 300}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of a soak in other runs; give each test its limit, which includes its fixtures."""
    left_out = [] if origin.is_soak() else [one for one in items if one.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if not item.get_closest_marker("timeout"):
            kind = next(kind for kind in LIMITS if not kind or item.get_closest_marker(kind))
            item.add_marker(pytest.mark.timeout(LIMITS[kind]))


def pytest_collection_finish() -> None:
    """Exempt the collected tests from garbage collection: they stay, and looking at them takes time in each test."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what this machine could not test, so that it does not count as tested."""
    if terminalreporter.config.option.markexpr.strip() != "long":
        return
    from tests.unit.celeries.environments import missing

    lines = missing()
    if lines:
        terminalreporter.section("not tried")
        for line in lines:
            terminalreporter.line(line)
