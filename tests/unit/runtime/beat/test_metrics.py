"""Sent and failed entries are counted, and the next beat continues the counts."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler, Service
from celery.schedules import crontab, schedule

from celery_fleet.beat import metrics
from celery_fleet.beat import steps as beat
from celery_fleet.beat.metrics import BeatMetrics
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.common.small_file import LARGEST_OF_BEAT
from celery_fleet.supervision.notify import Notifier
from tests.fleet import wait_for
from tests.unit.runtime.beat.real import RealBeat, counted
from tests.unit.runtime.conftest import Manager

HOUR = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "beat.json"


@pytest.fixture
def start(path: Path, manager: Manager) -> Callable[..., Any]:
    """Start a beat in this process, without its loop; it sends to memory."""

    def started(**entries: dict[str, Any]) -> Any:
        app = Celery("shop", set_as_current=False, broker="memory://", backend="disabled://")
        app.conf.beat_schedule = {
            name: {"task": "t", "schedule": schedule(HOUR), **entry}
            for name, entry in entries.items()
        }
        service = Service(app, scheduler_cls=Scheduler)
        beat.watch_service(app, service, Notifier(manager.address), metrics=str(path))
        return service

    return started


def before(path: Path, seconds: float, **entries: Any) -> None:
    """Leave the file of a beat that was last alive some time ago."""
    found = {"format": 1, "written": time.time() - seconds, "entries": entries}
    path.write_text(json.dumps(found))


def ran(service: Any, name: str, seconds: float) -> None:
    """Set an entry's last run to some time ago."""
    service.scheduler.schedule[name].last_run_at = datetime.now(UTC) - timedelta(seconds=seconds)


def tick(service: Any, number: int = 1) -> None:
    for _ in range(number):
        service.scheduler.tick()


def test_sent_and_failed_entries_are_counted(start: Any, path: Path) -> None:
    service = start(good={}, bad={"args": 1}, idle={})
    for name in ("good", "bad"):
        ran(service, name, HOUR)
    tick(service, 2)
    service.sync()
    assert counted(path) == {"good": {"sent": 1}, "bad": {"failed": 1}, "idle": {}}
    found = json.loads(path.read_text())
    assert set(found["entries"]["idle"]) == set(metrics.COUNTERS)
    assert (found["format"], found["written"]) == (1, pytest.approx(time.time(), abs=60))


def test_the_applications_group_can_read_the_file(start: Any, path: Path) -> None:
    mask = os.umask(0o077)
    try:
        tick(start(one={}))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_file_is_written_at_intervals_and_at_the_end(
    start: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    service = start(one={})
    for moment, written in ((100.0, True), (109.0, False), (110.0, True)):
        now[0] = moment
        path.unlink(missing_ok=True)
        tick(service)
        assert path.exists() is written, moment
    path.unlink()
    service.sync()
    assert path.exists()


def test_counters_continue_except_those_of_removed_entries(start: Any, path: Path) -> None:
    counts = {"sent": 4, "failed": 3, "late": 2, "collapsed": 1, "skipped": 5}
    before(path, 10, stays=counts, left=counts)
    tick(start(stays={}, new={}))
    assert counted(path) == {"stays": counts, "new": {}}


@pytest.mark.slow
def test_counters_of_many_entries_with_long_names_continue(start: Any, path: Path) -> None:
    counts = {"sent": 4, "failed": 3, "late": 2, "collapsed": 1, "skipped": 5}
    names = [f"{n:0250}" for n in range(20_000)]
    before(path, 10, **dict.fromkeys(names, counts))
    tick(start(**{names[-1]: {}}))
    assert counted(path) == {names[-1]: counts}


def test_what_is_counted_for_entries_that_are_not_shown_stays(
    start: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sum would also grow or shrink when an entry is added or removed, as if runs had been missed."""
    monkeypatch.setattr(metrics, "SHOWN", 2)
    zero = dict.fromkeys(metrics.COUNTERS, 0)
    service = start(a={}, b={}, c={"args": 1}, d={})
    tick(service)
    for name in "abcd":
        ran(service, name, HOUR)
    service.scheduler.populate_heap()
    tick(service, 4)
    service.sync()
    other = {**zero, "sent": 1, "failed": 1}
    assert json.loads(path.read_text())["other"] == other
    for entries in ({"a": {}, "c": {}}, {"a": {}, "aa": {}, "b": {}, "c": {}}):
        service = start(**entries)
        tick(service)
        service.sync()
        assert json.loads(path.read_text())["other"] == other


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_stop_in_the_middle_of_a_send_changes_no_counters(
    start: Any, path: Path, is_closed: bool
) -> None:
    """At that time the entry is not in the heap, and Celery may try to write to the schedule that it has closed."""
    counts = {"sent": 4, "failed": 0, "late": 0, "collapsed": 0, "skipped": 0}
    before(path, 10, one=counts)
    service = start(one={})
    tick(service)
    ran(service, "one", HOUR)
    service.scheduler.populate_heap()

    def stopped(*_: Any, **__: Any) -> None:
        service.sync()
        raise SystemExit

    def write() -> None:
        if is_closed:
            raise ValueError("invalid operation on closed shelf")

    service.scheduler.send_task = stopped
    service.scheduler._do_sync = write
    with suppress(SystemExit):
        tick(service)
    service.sync()
    assert counted(path) == {"one": {"sent": 4}}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"written": 1}', '{"written": 1, "entries": {"a": 1}}', "[" * 200_000),
        '{"written": 1, "entries": {"a": {"sent": 1e999}}}',
        f'{{"written": {10**400}, "entries": {{}}}}',
        '{"written": 1, "entries": {}}' + " " * LARGEST_OF_BEAT,
    ],
    ids=lambda text: text[:60],
)
def test_counters_begin_at_zero_if_the_file_cannot_be_read(
    start: Any, path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(text)
    tick(start(one={}))
    assert counted(path) == {"one": {}}
    assert "counters begin at zero" in caplog.text


def test_counters_of_an_older_beat_continue(start: Any, path: Path) -> None:
    path.write_text(json.dumps({"format": 1, "written": 1, "entries": {"one": {"sent": 3}}}))
    tick(start(one={}))
    assert counted(path) == {"one": {"sent": 3}}


def test_a_pipe_in_place_of_the_file_does_not_stop_beat(start: Any, path: Path) -> None:
    os.mkfifo(path)
    tick(start(one={}))
    assert counted(path) == {"one": {}}


def test_a_file_that_cannot_be_written_does_not_stop_beat(
    start: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(one={})
    path.mkdir()
    tick(service)
    service.sync()
    assert caplog.text.count("beat.json can't be written") == 1


# --- late, collapsed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago", "down", "found"),
    [
        # Due every hour: seconds since its last run, and since beat was last alive.
        (HOUR + 30, 1000, {"sent": 1}),
        (HOUR + 90, 1000, {"sent": 1, "late": 1}),
        (2 * HOUR - 30, 2 * HOUR, {"sent": 1, "late": 1}),
        (2 * HOUR + 30, 2 * HOUR, {"sent": 1, "late": 1, "collapsed": 1}),
        # Beat was alive when this schedule says that it was due: the schedule is new.
        (9 * HOUR, 1000, {"sent": 1}),
    ],
)
def test_entries_that_were_due_while_beat_was_away_are_counted(
    start: Any, path: Path, ago: float, down: float, found: dict[str, int]
) -> None:
    before(path, down)
    service = start(one={})
    ran(service, "one", ago)
    tick(service)
    service.sync()
    assert counted(path)["one"] == found


def test_without_a_previous_beat_nothing_was_missed(start: Any, path: Path) -> None:
    """The first start after an upgrade has no record of the previous beat."""
    service = start(one={})
    ran(service, "one", 9 * HOUR)
    tick(service)
    service.sync()
    assert counted(path)["one"] == {"sent": 1}


def test_missed_crontabs_are_counted_too(start: Any, path: Path) -> None:
    before(path, 9 * HOUR)
    service = start(minutely={"schedule": crontab()})
    ran(service, "minutely", 8 * HOUR)
    tick(service)
    service.sync()
    assert counted(path)["minutely"] == {"sent": 1, "late": 1, "collapsed": 1}


def test_an_entry_that_is_due_only_once_has_missed_no_second_run(path: Path) -> None:
    before(path, HOUR)
    due = time.time() - 600

    class Once:
        def remaining_estimate(self, last: datetime) -> timedelta:
            return timedelta(seconds=due - time.time())

    entry = Scheduler.Entry(
        name="once", task="t", schedule=schedule(1), last_run_at=datetime.now(UTC), app=Celery()
    )
    entry.schedule = Once()
    found = BeatMetrics(path)
    found.count(entry, True, None)
    found.note(["once"])
    assert counted(path)["once"] == {"sent": 1, "late": 1}


def test_a_schedule_that_cannot_be_asked_does_not_stop_beat(
    start: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(schedule):  # type: ignore[misc]  # Celery ships no types
        def is_due(self, last: datetime) -> tuple[bool, float]:
            return True, HOUR

        def remaining_estimate(self, last: datetime) -> timedelta:
            raise TypeError("no such thing")

    before(path, HOUR)
    service = start(one={"schedule": Broken(HOUR)})
    tick(service)
    service.sync()
    assert counted(path)["one"] == {"sent": 1}
    assert "the runs that one has missed can't be counted" in caplog.text


@pytest.mark.parametrize(("behind", "late"), [(metrics.LATE - 10, 0), (metrics.LATE + 1, 1)])
def test_late_sends_of_a_running_beat_are_counted(
    start: Any, path: Path, behind: float, late: int
) -> None:
    """The broker was away for a while, so the second one had to wait for the first."""
    service = start(first={}, second={})
    tick(service)
    for name in ("first", "second"):
        ran(service, name, HOUR + behind)
    heap = service.scheduler._heap
    service.scheduler._heap = sorted(event._replace(time=time.time() - behind) for event in heap)
    tick(service, 2)
    service.sync()
    found = counted(path).values()
    assert [counts["sent"] for counts in found] == [1, 1]
    assert sum(counts.get("late", 0) for counts in found) == late


@pytest.mark.slow
def test_a_real_beat_counts_across_restarts(real_beat: RealBeat) -> None:
    often = {"task": "shop.often", "interval": 1}
    bad = {"task": "shop.bad", "interval": 1, "options": {"serializer": "no-such"}}
    rare = {"task": "shop.rare", "interval": 1800}
    with real_beat.running(often=often, bad=bad, rare=rare):
        wait_for(
            lambda: real_beat.counts("often", "sent") > 1 and real_beat.counts("bad", "failed")
        )
    first = real_beat.counts("often", "sent")
    assert real_beat.arrived("shop.often") == first
    assert set(counted(real_beat.path)["often"]) == {"sent"}
    assert set(counted(real_beat.path)["bad"]) == {"failed"}
    assert counted(real_beat.path)["rare"] == {}

    # An hour and a quarter without beat.
    content = json.loads(real_beat.path.read_text())
    content["written"] -= 4500
    real_beat.path.write_text(json.dumps(content))
    kept = ScheduleFile.open(str(real_beat.directory / "schedule"))
    for entry in kept["entries"].values():
        entry.last_run_at -= timedelta(seconds=4500)
    kept.sync()
    with real_beat.running(often=often, rare=rare):
        wait_for(
            lambda: real_beat.counts("rare", "sent") and real_beat.counts("often", "sent") > first
        )
    once = {"late": 1, "collapsed": 1}
    again = real_beat.counts("often", "sent")
    assert counted(real_beat.path) == {
        "often": {"sent": again, **once},
        "rare": {"sent": 1, **once},
    }
    assert real_beat.arrived("shop.rare") == 1
