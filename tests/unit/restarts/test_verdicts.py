"""The verdict that pytest adds to a kept run after its tests, tested with a separate pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.restarts.origin import ROOT
from scripts.restarts.summary import RestartSummary

CONFTEST = """
from scripts.restarts.verdicts import (
    pytest_runtest_logreport, pytest_runtest_protocol, pytest_runtest_teardown
)
"""
BEGINNING = """
from pathlib import Path
import pytest
from scripts.restarts import verdicts
from tests.unit.restarts.runs import summary

def measured(name="kills"):
    one = summary(name)
    verdicts.wrote(one, Path(__file__).with_name(f"{name}.json"))
    return one

@pytest.fixture(scope="module")
def shared():
    return measured()
"""


def judged(directory: Path, tests: str, name: str = "kills") -> dict[str, str]:
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_it.py").write_text(BEGINNING + tests)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--quiet",
            "-p",
            "no:cacheprovider",
            f"--rootdir={directory}",
            str(directory),
        ],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_ADDOPTS": "",
            # Loading the suite's plugins would take longer than this test.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        check=False,
        stdout=subprocess.DEVNULL,
    )
    return dict(RestartSummary.read(directory / f"{name}.json").tests)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("assert one.lost == 0", "passed"),
        ("assert one.lost > 0", "failed"),
        ("raise OSError('no host')", "failed"),
        ("pytest.skip('why')", "failed"),
    ],
)
def test_the_verdict_is_that_of_the_test_that_measured(
    tmp_path: Path, body: str, outcome: str
) -> None:
    tests = f"def test_a():\n    one = measured()\n    {body}\n"
    assert judged(tmp_path, tests) == {"test_a": outcome}


def test_every_test_that_uses_a_run_judges_it(tmp_path: Path) -> None:
    tests = """
def test_a(shared):
    pass

def test_b(shared):
    assert shared.lost > 0

def test_without_it():
    assert False
"""
    assert judged(tmp_path, tests) == {"test_a": "passed", "test_b": "failed"}


def test_a_fixture_that_fails_afterwards_is_a_failure(tmp_path: Path) -> None:
    """An example is a command that Redis has refused to one of the roles' users."""
    tests = """
@pytest.fixture(autouse=True)
def nothing_refused():
    yield
    assert False

def test_a():
    measured()
"""
    assert judged(tmp_path, tests) == {"test_a": "failed"}


def test_each_run_has_the_verdict_of_its_own_test(tmp_path: Path) -> None:
    tests = (
        "def test_a():\n    measured()\n    assert False\n\ndef test_b():\n    measured('other')\n"
    )
    assert judged(tmp_path, tests) == {"test_a": "failed"}
    assert RestartSummary.read(tmp_path / "other.json").tests == {"test_b": "passed"}
