"""Beat's schedule file, which does not depend on the database that this Python has for `shelve`."""

from __future__ import annotations

import errno
import os
import pickle
import shelve
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.beat import PersistentScheduler, ScheduleEntry
from celery.schedules import crontab, schedule

from celery_fleet.beat import schedule_file
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.compat.beat import keep_schedule_in, on_send
from celery_fleet.compat.last_runs import count_from_new_times
from tests.fleet import wait_for
from tests.unit.runtime.beat.real import RealBeat, counted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "schedule"


def scheduler(path: Path, **more: float) -> Any:
    app: Any = Celery("shop", set_as_current=False, broker="memory://", fixups=[])
    entries = {
        name: {"task": "t", "schedule": every} for name, every in {"e": 60.0, **more}.items()
    }
    app.conf.update(result_expires=None, beat_schedule=entries)
    keep_schedule_in(ScheduleFile)
    count_from_new_times()
    return PersistentScheduler(app, schedule_filename=str(path))


def test_what_is_saved_is_on_the_disk_before_beat_ends(path: Path) -> None:
    """On Debian 12, `shelve` writes nothing before it is closed."""
    beat = scheduler(path)
    beat.reserve(beat.schedule["e"])
    beat.sync()
    # What another process reads while this one still runs.
    assert schedule_file.read(path)["entries"]["e"].total_run_count == 1
    assert scheduler(path).schedule["e"].total_run_count == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_of_an_earlier_version_is_taken_over(path: Path) -> None:
    last = datetime(2026, 11, 23, 10, 30)
    scheduler(path.with_name("other"))
    content = schedule_file.read(path.with_name("other"))
    content["entries"]["e"].last_run_at = last
    content["entries"]["e"].total_run_count = 7
    with shelve.open(str(path)) as before:  # noqa: S301  # this test writes it
        before.update(content)
    beat = scheduler(path)
    assert beat.schedule["e"].last_run_at.replace(tzinfo=None) == last
    assert beat.schedule["e"].total_run_count == 7
    # A second version could go on with old times if the file stayed.
    assert sorted(one.name for one in path.parent.iterdir()) == ["other", "schedule"]


@pytest.mark.parametrize("content", [b"broken", b"", b"\x80broken", pickle.dumps(7)])
def test_a_damaged_file_is_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert scheduler(path).schedule["e"].total_run_count == 0
    assert set(schedule_file.read(path)) >= {"entries", "tz"}


def test_an_entry_whose_class_is_gone_costs_no_other_its_last_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(crontab):
        """A schedule of a release that is replaced."""

    module: Any = ModuleType("gone")
    module.Gone = Gone
    Gone.__module__, Gone.__qualname__ = "gone", "Gone"
    monkeypatch.setitem(sys.modules, "gone", module)
    beat = scheduler(path)
    beat.schedule["e"].total_run_count = 7
    for name in ("e2", "dropped"):
        beat.add(name=name, task="t", schedule=Gone(minute=5))
    beat.sync()
    monkeypatch.delitem(sys.modules, "gone")
    beat = scheduler(path, e2=60.0)
    assert beat.schedule["e"].total_run_count == 7
    assert type(beat.schedule["e2"].schedule) is schedule
    assert set(beat.schedule) == {"e", "e2"}
    # Nothing of the class is saved.
    assert b"_Lost" not in path.read_bytes()
    beat.tick()


def test_an_entry_whose_own_class_is_gone_begins_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class GoneEntry(ScheduleEntry):
        """An entry of the application's own scheduler."""

    class GoneList(list[int]):
        """An argument."""

    module: Any = ModuleType("gone")
    for kind in (GoneEntry, GoneList):
        setattr(module, kind.__name__, kind)
        kind.__module__, kind.__qualname__ = "gone", kind.__name__
    monkeypatch.setitem(sys.modules, "gone", module)
    beat = scheduler(path, own=60.0)
    beat.schedule["e"].total_run_count = 7
    beat.schedule["e"].args = GoneList([1, 2])
    beat.schedule["own"] = GoneEntry(name="own", task="t", schedule=schedule(60))
    beat.sync()
    monkeypatch.delitem(sys.modules, "gone")
    beat = scheduler(path, own=60.0)
    assert beat.schedule["e"].total_run_count == 7
    assert type(beat.schedule["own"]) is ScheduleEntry
    assert beat.schedule["e"].args == ()
    assert b"_Lost" not in path.read_bytes()


def test_a_file_that_can_t_be_read_stays(path: Path) -> None:
    """Celery would remove it, and all missed runs would be forgotten."""
    path.mkdir()
    with pytest.raises(SystemExit, match=f"the schedule {path} can't be read: Is a directory"):
        scheduler(path)
    assert path.is_dir()


def test_a_full_disk_leaves_what_was_saved_and_does_not_stop_beat(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beat = scheduler(path)
    before = path.read_bytes()
    sent: list[bool] = []
    service: Any = SimpleNamespace(scheduler=beat)
    beat.send_task = lambda *_, **__: None
    on_send(service, lambda _, was_sent: sent.append(was_sent))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        for _ in range(2):
            beat.reserve(beat.schedule["e"])
            # Each send saves the schedule.
            beat.sync_every_tasks = 1
            beat.apply_entry(beat.schedule["e"])
        beat.close()
        assert sent == [True, True]
        assert path.read_bytes() == before
        # One that starts now begins with what was saved.
        assert scheduler(path).schedule["e"].total_run_count == 0
        assert path.read_bytes() == before
    (told, _) = [one for one in caplog.records if "can't be saved" in one.message]
    assert f"the schedule {path} can't be saved: No space left on device" in told.message
    beat.sync()
    beat.sync()
    assert scheduler(path).schedule["e"].total_run_count == 2
    assert caplog.text.count("is saved again") == 1
    assert [one.name for one in path.parent.iterdir()] == ["schedule"]


def test_a_beat_that_keeps_its_schedule_elsewhere_removes_the_file(tmp_path: Path) -> None:
    """If the schedule is in a file again, beat would send everything that was due meanwhile."""
    for name in ("celerybeat-schedule", "celerybeat-schedule.db", "other"):
        (tmp_path / name).touch()
    schedule_file.remove_left(str(tmp_path))
    schedule_file.remove_left(None)
    assert [one.name for one in tmp_path.iterdir()] == ["other"]


def killed_after(beat: RealBeat, process: subprocess.Popen[bytes]) -> None:
    wait_for(lambda: beat.arrived("shop.often") > 2)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_beat_that_is_killed_has_saved_every_run(real_beat: RealBeat) -> None:
    with (
        pytest.raises(AssertionError, match="beat: Starting"),  # it has failed, with this log
        real_beat.running(often={"task": "shop.often", "interval": 1}) as process,
    ):
        killed_after(real_beat, process)
    saved = schedule_file.read(real_beat.directory / "schedule")["entries"]["often"]
    # It may have died between sending and saving.
    assert saved.total_run_count >= real_beat.arrived("shop.often") - 1
    assert datetime.now(saved.last_run_at.tzinfo) - saved.last_run_at < timedelta(seconds=30)


@pytest.mark.slow
def test_beat_starts_and_sends_while_its_schedule_can_t_be_saved(real_beat: RealBeat) -> None:
    # Root can write to any directory, but not this way.
    blocked = real_beat.directory / "schedule.new"
    blocked.mkdir()
    with real_beat.running(often={"task": "shop.often", "interval": 1}):
        wait_for(lambda: real_beat.arrived("shop.often") > 2)
        assert not (real_beat.directory / "schedule").exists()
        blocked.rmdir()
        wait_for((real_beat.directory / "schedule").exists)
    counts = counted(real_beat.path)["often"]
    assert counts == {"sent": real_beat.arrived("shop.often")}
    assert real_beat.log.count("can't be saved") == real_beat.log.count("is saved again") == 1
