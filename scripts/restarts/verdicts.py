"""Record which tests judged a kept run, and whether they passed: pytest hooks that the scenarios' conftest.py import.

A run is kept before its test asserts anything, so the verdict is added when the test has ended.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from .summary import RestartSummary

_paths: dict[tuple[str, str], Path] = {}
_used: set[Path] = set()
_failed: set[str] = set()


def wrote(summary: RestartSummary, path: Path) -> None:
    """Write a run to a file. The current test judges it, and so do tests that get it from a fixture."""
    summary.write(path)
    _paths[summary.name, summary.way] = path
    _used.add(path)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Note which runs the test has used, while its fixtures are still known."""
    for value in getattr(item, "funcargs", {}).values():
        if isinstance(value, RestartSummary) and (value.name, value.way) in _paths:
            _used.add(_paths[value.name, value.way])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note that a test has failed, even in a fixture."""
    if not report.passed:
        _failed.add(report.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Add the verdict to the runs that the test has used."""
    _used.clear()
    try:
        return (yield)
    finally:
        outcome = "failed" if item.nodeid in _failed else "passed"
        for path in _used:
            kept = RestartSummary.read(path)
            replace(kept, tests={**kept.tests, item.name: outcome}).write(path)
