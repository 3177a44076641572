from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.write import (
    GeneratedFile,
    WriteError,
    write,
)

from tests.unit.new_env.given import HEEDING, ROOT

FILES = {"a/b.yml": GeneratedFile("text\n"), "secret": GeneratedFile("hush\n", 0o600)}


def nothing(_: Path) -> None:
    """Accept every environment."""


def test_all_files_appear_at_once_with_their_modes(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(half: Path) -> None:
        assert half.parent == tmp_path
        assert half.stat().st_mode & 0o077 == 0
        seen.append(sorted(path.name for path in half.iterdir()))

    write(tmp_path / "shop", FILES, look)
    assert seen == [["a", "secret"]]
    assert os.listdir(tmp_path) == ["shop"]
    assert (tmp_path / "shop/a/b.yml").read_text() == "text\n"
    assert (tmp_path / "shop/secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "shop").stat().st_mode & 0o777 == 0o755


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    with pytest.raises(WriteError, match="nothing is ever overwritten"):
        write(tmp_path / "shop", FILES, nothing)
    assert os.listdir(tmp_path) == ["shop"]
    assert os.listdir(tmp_path / "shop") == []


@pytest.mark.parametrize("error", [ValueError("no good"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failure_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise error

    with pytest.raises(type(error)):
        write(tmp_path / "shop", FILES, fail)
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="No such file or directory"):
        write(tmp_path / "nowhere/shop", FILES, nothing)
    too_long = {"n" * 300: GeneratedFile("")}
    with pytest.raises(WriteError, match="name too long"):
        write(tmp_path / "shop", too_long, nothing)
    assert os.listdir(tmp_path) == []


def test_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".new-env-shop/a").mkdir(parents=True)
    (tmp_path / ".new-env-shop/a/old").touch()
    write(tmp_path / "shop", FILES, nothing)
    assert os.listdir(tmp_path) == ["shop"]
    assert os.listdir(tmp_path / "shop/a") == ["b.yml"]


def test_a_concurrent_run_is_refused(tmp_path: Path) -> None:
    half = tmp_path / ".new-env-shop"
    half.mkdir()
    descriptor = os.open(half, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(WriteError, match="another run of new-env is making shop"):
            write(tmp_path / "shop", FILES, nothing)
        assert half.is_dir()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.write import GeneratedFile, write

def wait(half):
    print("ready", flush=True)
    time.sleep(60)

write(Path(sys.argv[1]) / "shop", {"a/b": GeneratedFile("x")}, wait)
"""
    process = subprocess.Popen(
        [*HEEDING, sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "collections"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert os.listdir(tmp_path) == [".new-env-shop"]
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(timeout=30) != 0
    assert time.monotonic() - began < 30
    assert os.listdir(tmp_path) == []
