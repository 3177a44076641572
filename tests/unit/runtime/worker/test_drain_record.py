from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from celery_fleet.worker.drain_record import DrainProgress, DrainRecord


def read(path: Path) -> dict[str, object]:
    return dict(json.loads((path / "drain.json").read_text()))


def test_the_record_has_the_process_and_the_progress(tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": f"{tmp_path}:/elsewhere", "INVOCATION_ID": "i1"}
    DrainRecord.of(environ).write(DrainProgress(16, 3), 0.0021)

    assert read(tmp_path) == {
        "invocation": "i1",
        "pid": os.getpid(),
        "handed_back": 16,
        "running": 3,
        "ended": False,
        "seconds": 0.002,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["drain.json"]


def test_changes_are_written_once_a_second_and_the_end_at_once(tmp_path: Path) -> None:
    record = DrainRecord(str(tmp_path))
    record.write(DrainProgress(0, 3), 0.0)
    record.write(DrainProgress(0, 2), 0.9)
    assert read(tmp_path)["running"] == 3
    record.write(DrainProgress(0, 2), 1.0)
    assert read(tmp_path)["running"] == 2
    record.write(DrainProgress(0, 2), 9.0)
    assert read(tmp_path)["seconds"] == 1.0
    record.write(DrainProgress(0, 0, ended=True), 9.1)
    assert (read(tmp_path)["ended"], read(tmp_path)["invocation"]) == (True, None)


def test_without_a_directory_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    DrainRecord.of({}).write(DrainProgress(1, 1), 0.0)
    assert not list(tmp_path.iterdir())


def test_a_file_that_can_not_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = DrainRecord(str(tmp_path / "missing"))
    record.write(DrainProgress(1, 1), 0.0)
    record.write(DrainProgress(1, 1), 5.0)

    assert caplog.text.count("drain.json can't be written") == 1
