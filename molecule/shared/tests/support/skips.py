"""Count skipped tests on hosts as failed, because they prove nothing. `molecule/conftest.py` imports these hooks."""

from __future__ import annotations

from collections.abc import Generator

import pytest


def refuse(report: pytest.TestReport | pytest.CollectReport, what: str) -> None:
    """Turn a skip into a failure."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a skipped {what} proves nothing here: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test as failed."""
    report = yield
    refuse(report, "test")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Count a skipped module as failed."""
    report = yield
    refuse(report, "module")
    return report
