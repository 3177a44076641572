from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_fleet.delivery.hand_back import worker_record
from celery_fleet.system import stop

# SIGQUIT is ignored from the start if a shell has put the tests into the background.
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that ignores SIGTERM."""
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "_SLICE", 0.05)
    monkeypatch.setattr(stop, "_AFTER_QUIT", 60.0)
    monkeypatch.setattr(stop, "host_shuts_down", lambda: False)


def test_a_process_that_ends_by_itself_was_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert stop.main([str(process.pid), "--drain", "20"]) == 0
        assert process.wait() == -15


def test_after_the_drain_it_is_asked_to_quit(
    deaf: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert stop.main([str(deaf.pid), "--drain", "0.3"]) == 0
    assert deaf.wait() == -3
    said = re.search(r"tasks still run after (\d+) s of drain", capsys.readouterr().out)
    assert said is not None
    # 0 s, unless the machine was slower.
    assert int(said[1]) <= round(time.monotonic() - began)


def test_without_quit_it_is_killed(deaf: subprocess.Popen[bytes]) -> None:
    assert stop.main([str(deaf.pid), "--drain", "0.1", "--no-quit"]) == 1
    assert deaf.wait() == -9


def test_a_process_whose_unit_hands_back_is_not_asked_to_quit(
    deaf: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/other")
    (tmp_path / worker_record.RECORD).touch()
    assert stop.main([str(deaf.pid), "--drain", "0.1", "--hand-back"]) == 1
    assert deaf.wait() == -9


@pytest.mark.parametrize("directory", ["", "{}"])
def test_a_process_without_a_record_for_the_hand_back_is_asked_to_quit(
    deaf: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    """It may have started before its unit handed back, or use the stock fetch."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", directory.format(tmp_path))
    assert stop.main([str(deaf.pid), "--drain", "0.1", "--hand-back"]) == 0
    assert deaf.wait() == -3


@pytest.mark.timeout(60)
def test_a_task_can_not_hold_up_the_stop(
    deaf: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    os.mkfifo(tmp_path / worker_record.STOPPING)
    assert stop.main([str(deaf.pid), "--drain", "0.1"]) == 0
    assert deaf.wait() == -3


def test_a_drain_under_way_is_cut_short_when_the_host_goes_down(
    deaf: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def goes_down_later() -> bool:
        asked.append(1)
        return len(asked) > 3

    monkeypatch.setattr(stop, "host_shuts_down", goes_down_later)
    start = time.monotonic()

    assert stop.main([str(deaf.pid), "--drain", "50", "--shutdown-drain", "0.2"]) == 0
    assert time.monotonic() - start < 10
    assert len(asked) == 4


def test_a_longer_drain_at_shutdown_does_not_prolong_the_ordinary_one(
    deaf: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "host_shuts_down", lambda: True)
    start = time.monotonic()

    assert stop.main([str(deaf.pid), "--drain", "0.2", "--shutdown-drain", "60"]) == 0
    assert time.monotonic() - start < 10


def test_a_process_that_has_already_ended_counts_as_stopped() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

    assert stop.main(["--drain", "1"]) == 0
    assert stop.main([str(child), "--drain", "1"]) == 0
