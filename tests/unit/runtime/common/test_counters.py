from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.common import counters


def counts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_counters_are_summed_in_a_file_that_all_users_can_read(tmp_path: Path) -> None:
    path = tmp_path / "shop-web.service.json"
    before = os.umask(0o077)
    try:
        counters.add(path, {"success": 1}, "results")
        counters.add(path, {"success": 1, "watchdog": 1}, "results")
    finally:
        os.umask(before)
    assert counts(path) == {"format": 1, "results": {"success": 2, "watchdog": 1}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    # A process that can open the lock can delay the end of a unit.
    assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600
    assert {item.name for item in tmp_path.iterdir()} == {path.name, ".lock"}


def test_a_second_instance_counts_as_its_worker(tmp_path: Path) -> None:
    for name in ("shop-worker@mail.service.json", "shop-worker@mail.next.service.json"):
        counters.add(tmp_path / name, {"left": 2})
    assert counts(tmp_path / "shop-worker@mail.service.json") == {"format": 1, "left": 4}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{}", "[]", "null", '{"format": 2, "left": 9}', '{"format": 1, "left": "x"}'),
        *('{"format": 1, "left": 1e999}', "[" * 200_000),
    ],
    ids=lambda text: text[:30],
)
def test_a_file_of_another_kind_begins_at_zero(tmp_path: Path, text: str) -> None:
    path = tmp_path / "unit.json"
    path.write_text(text)
    counters.add(path, {"left": 1})
    assert counts(path) == {"format": 1, "left": 1}


def test_two_processes_that_end_at_once_are_both_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "PATIENCE", 60.0)
    path = tmp_path / "unit.json"
    ends = [threading.Thread(target=counters.add, args=(path, {"left": 1})) for _ in range(20)]
    for end in ends:
        end.start()
    for end in ends:
        end.join()
    assert counts(path) == {"format": 1, "left": 20}


def test_a_pipe_in_place_of_the_file_blocks_no_process(tmp_path: Path) -> None:
    path = tmp_path / "unit.json"
    os.mkfifo(path)
    counters.add(path, {"left": 1})
    assert counts(path) == {"format": 1, "left": 1}


def test_a_lock_that_another_process_keeps_blocks_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "PATIENCE", 0.1)
    path = tmp_path / "unit.json"
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            counters.add(path, {"left": 1})
    counters.add(path, {"left": 1})
    assert counts(path) == {"format": 1, "left": 1}
