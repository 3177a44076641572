"""A test that hangs is ended, because otherwise it would block all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LIMITS
from tests.contract.test_repository import ROOT


def limit(request: pytest.FixtureRequest) -> int:
    marker = request.node.get_closest_marker("timeout")
    return int(marker.args[0])


def test_a_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert limit(request) == LIMITS[""]


@pytest.mark.slow
def test_a_slow_test_has_a_longer_limit(request: pytest.FixtureRequest) -> None:
    assert limit(request) == LIMITS["slow"]


@pytest.mark.timeout(7)
def test_a_test_can_set_its_own_limit(request: pytest.FixtureRequest) -> None:
    assert limit(request) == 7


@pytest.mark.slow
def test_a_test_that_hangs_fails_and_the_next_one_runs(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import threading, pytest\n"
        "@pytest.mark.timeout(1)\n"
        "def test_hangs(): threading.Event().wait()\n"
        "def test_next(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", f"--config-file={ROOT}/pyproject.toml", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "Timeout" in done.stdout
