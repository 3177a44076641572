"""A test on hosts that is skipped proves nothing: it counts as failed. Imported into each scenario's conftest."""

from __future__ import annotations

from collections.abc import Generator

import pytest


def refuse(report: pytest.TestReport | pytest.CollectReport, what: str) -> None:
    """Make a skip a failure."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a skipped {what} proves nothing here: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped."""
    report = yield
    refuse(report, "test")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let no module be skipped."""
    report = yield
    refuse(report, "module")
    return report
