"""The file of a worker's revoked tasks, with Celery's own code that fills and reads it."""

from __future__ import annotations

import atexit
import errno
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.utils.collections import LimitedSet
from celery.worker import components
from celery.worker import state as worker_state
from kombu.clocks import LamportClock

from celery_fleet.common import pickle_file
from celery_fleet.worker import state_file
from tests.fleet import running


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Return a function that does what a starting worker does, and returns what saves at its end."""

    def forget() -> None:
        monkeypatch.setattr(worker_state, "revoked", LimitedSet(maxlen=10, expires=60))

    forget()
    monkeypatch.setattr(worker_state, "Persistent", worker_state.Persistent)
    monkeypatch.setattr(atexit, "register", lambda _: None)
    state_file.install()

    def begin(path: Path) -> Any:
        forget()
        app = SimpleNamespace(clock=LamportClock())
        worker: Any = SimpleNamespace(statedb=str(path), state=worker_state, app=app)
        components.StateDB(worker).create(worker)
        return worker._persistence

    return begin


def test_revoked_tasks_survive_a_restart(tmp_path: Path, start: Callable[[Path], Any]) -> None:
    first = start(tmp_path / "state")
    worker_state.revoked.add("a")
    first.clock.adjust(7)
    first.save()

    second = start(tmp_path / "state")

    assert list(worker_state.revoked) == ["a"]
    assert second.clock.value > 7
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


def test_the_file_of_an_earlier_version_is_taken_over(
    tmp_path: Path, start: Callable[[Path], Any]
) -> None:
    stock: Any = state_file.StateInFile.__base__
    worker_state.revoked.add("a")
    stock(worker_state, str(tmp_path / "state"), LamportClock()).save()

    start(tmp_path / "state").save()

    assert list(worker_state.revoked) == ["a"]
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize(
    "content",
    [b"broken", b"", b"\x80broken", pickle.dumps(7), pickle.dumps({"zrevoked": b"broken"})],
)
def test_a_damaged_file_does_not_stop_a_worker(
    tmp_path: Path,
    start: Callable[[Path], Any],
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)

    first = start(path)

    assert f"the statedb {path} can't be read" in caplog.text
    worker_state.revoked.add("a")
    first.save()
    start(path)
    assert list(worker_state.revoked) == ["a"]


def test_a_full_disk_leaves_what_was_saved(
    tmp_path: Path, start: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(tmp_path / "state")
    worker_state.revoked.add("a")
    first.save()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    second = start(tmp_path / "state")
    worker_state.revoked.add("b")
    with pytest.raises(OSError, match="No space left"):
        second.save()

    start(tmp_path / "state")
    assert list(worker_state.revoked) == ["a"]


def test_a_place_where_nothing_can_be_saved_is_refused(
    tmp_path: Path,
    start: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CELERY_FLEET_COMPONENT", "worker")
    with pytest.raises(SystemExit):
        start(tmp_path / "missing" / "state")
    assert f"the worker can't write its statedb {tmp_path}/missing/state" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_starts_with_a_damaged_file_and_saves_revoked_tasks_in_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"broken")
    with running(tmp_path, f"--statedb={path}") as fleet:
        assert f"the statedb {path} can't be read" in fleet.log()
        fleet.told("control", "revoke", "the-task")
        fleet.processes["worker"].terminate()
        assert fleet.processes["worker"].wait(60) == 0, fleet.log()
    assert b"the-task" in zlib.decompress(pickle_file.read(path)["zrevoked"])
