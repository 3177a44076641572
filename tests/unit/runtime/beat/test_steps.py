from __future__ import annotations

import atexit
import json
import math
import stat
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.beat import ScheduleEntry, Scheduler, Service
from celery.schedules import crontab, schedule

from celery_fleet.beat import loaded
from celery_fleet.beat import steps as beat
from celery_fleet.compat import beat as compat_beat
from celery_fleet.config.pins import PinnedSchedule
from celery_fleet.supervision.notify import Notifier
from celery_fleet.supervision.watch import State, Watch
from tests.unit.runtime.conftest import Manager


@pytest.fixture
def app() -> Celery:
    app = Celery("shop", set_as_current=False, broker="memory://", backend="disabled://")
    app.conf.beat_schedule = {"hourly": {"task": "t", "schedule": schedule(3600)}}
    app.conf.beat_max_loop_interval = 5
    return app


@pytest.fixture
def service(app: Celery) -> Any:
    return Service(app, scheduler_cls=Scheduler)


@pytest.fixture
def watched(app: Celery, service: Any, manager: Manager) -> Watch:
    return beat.watch_service(app, service, Notifier(manager.address, 30.0))


def test_ready_when_the_schedule_is_loaded_and_the_broker_answered(
    watched: Any, service: Any, manager: Manager
) -> None:
    watched.step()
    assert manager.heard() == [
        "STATUS=schedule loaded, connecting to the broker",
        "WATCHDOG=1",
    ]

    watched.step()
    assert manager.heard() == ["READY=1\nSTATUS=schedule loaded"]

    service.scheduler.tick()
    watched.step()
    (status,) = manager.heard()
    assert status.startswith("STATUS=1 entry, next hourly at 20")
    assert status.endswith(" UTC")


def test_without_a_broker_it_waits(app: Celery, service: Any, manager: Manager) -> None:
    app.conf.broker_url = "redis://127.0.0.1:9/0"
    watch = beat.watch_service(app, service, Notifier(manager.address))

    assert watch.step()
    assert watch.step()
    assert manager.heard()[0].startswith("STATUS=waiting for broker 127.0.0.1:9: ")


def test_a_beat_that_stands_still_is_stuck() -> None:
    progress = beat.Progress(5.0)
    assert beat.observe(progress, True).state is State.WORKING

    progress.last = time.monotonic() - 16
    assert beat.observe(progress, True).state is State.STUCK
    assert beat.observe(progress, False).state is State.STARTING

    progress.stopping = True
    assert beat.observe(progress, True).state is State.DRAINING


def test_a_tick_counts_as_progress(service: Any, watched: Any) -> None:
    calls = []
    service.scheduler.apply_entry = lambda *_, **__: calls.append(1)
    for entry in service.scheduler.schedule.values():
        entry.schedule = schedule(0.0)
    service.scheduler.tick()

    assert calls == [1]


def test_a_schedule_that_cannot_be_shown_does_not_end_beat(
    service: Any, watched: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr(compat_beat, "loaded", fail)
    service.scheduler.tick()
    service.scheduler.tick()

    assert caplog.text.count("beat's schedule can't be shown") == 1


def test_unusual_schedules_are_shown() -> None:
    odd = SimpleNamespace(run_every=5)
    entry = SimpleNamespace(name="e", task="t", options=None, schedule=odd, args=(), kwargs={})
    heap = [SimpleNamespace(time=0.0, entry=entry)]
    service = SimpleNamespace(scheduler=SimpleNamespace(_heap=heap), app=Celery("odd"))

    (shown,) = compat_beat.loaded(service.app, compat_beat.events(service) or [])
    assert shown.schedule == str(odd)


class Never(schedule):
    """A schedule that is not due."""

    def is_due(self, _: Any) -> Any:
        return False, math.inf


@pytest.mark.parametrize("due", [math.inf, math.nan, 1e20, -1e20, 253_402_300_799.0])
def test_times_that_no_date_can_show(due: float) -> None:
    app = Celery("odd", set_as_current=False, timezone="Pacific/Kiritimati")
    entry = ScheduleEntry(name="e", task="t", schedule=5, app=app)
    (shown,) = compat_beat.loaded(app, [(due, entry)])
    assert shown.due == ("1970-01-01T00:00:00Z" if due < 0 else "9999-12-30T00:00:00Z")
    assert datetime.fromisoformat(shown.due).timestamp() >= 0

    progress = beat.Progress(5.0)
    progress.scheduled = (1, due, "e")
    assert beat.describe(progress).startswith(f"1 entry, next e at {shown.due[:10]} ")


def test_an_entry_that_is_never_due_does_not_hide_the_others(
    app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(loaded.DIRECTORY_VARIABLE, str(tmp_path))
    app.conf.beat_schedule["never"] = {"task": "t", "schedule": Never(5)}
    service = Service(app, scheduler_cls=Scheduler)
    beat.show(app, service, in_database=False)
    path = tmp_path / loaded.NAME
    standing_by = json.loads(path.read_text())
    path.unlink()
    beat.watch_service(app, service, Notifier(None))
    service.scheduler.tick()
    for found in (standing_by, json.loads(path.read_text())):
        assert {one["name"]: one["due"][:4] == "9999" for one in found["entries"]} == {
            "hourly": False,
            "never": True,
        }


def test_saving_the_schedule_is_reported(service: Any, watched: Any, manager: Manager) -> None:
    service.sync()
    watched.step()

    assert manager.heard()[0] == "STOPPING=1\nSTATUS=saving the schedule"


def test_it_starts_with_the_signal_beat_init(
    app: Celery, service: Any, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []
    stops: list[Any] = []
    monkeypatch.setattr(atexit, "register", stops.append)
    beat.install(app, Notifier(manager.address), logged.append)
    try:
        signals.beat_init.send(sender=service)
        deadline = time.monotonic() + 30
        heard: list[str] = []
        while not any(text.startswith("READY=1") for text in heard):
            assert time.monotonic() < deadline
            heard += manager.heard()
        service.sync()
    finally:
        for stop in stops:
            stop()
        signals.beat_init.disconnect(dispatch_uid="celery_fleet.beat")

    assert logged == [app]
    assert len(stops) == 1


def test_the_loaded_schedule_is_written_with_time_zone_queue_and_source(
    app: Celery,
    manager: Manager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def route(name: str, *rest: Any, **more: Any) -> dict[str, str]:
        asked.append(name)
        return {"queue": "routed"}

    app.conf.timezone = "America/Guayaquil"
    app.conf.task_routes = [route]
    theirs = {"theirs": {"task": "t", "schedule": crontab(minute="0", hour="8")}}
    ours = {"ours": {"task": "t", "schedule": schedule(3600), "options": {"queue": "q"}}}
    app.conf.beat_schedule = PinnedSchedule(ours, frozenset(), theirs)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    service = Service(app, scheduler_cls=Scheduler)
    beat.watch_service(app, service, Notifier(manager.address))

    service.scheduler.tick()
    service.scheduler.tick()

    written = tmp_path / "schedule.json"
    # The exporter is in the application's group.
    assert stat.S_IMODE(written.stat().st_mode) == 0o640
    found = json.loads(written.read_text())
    assert found["zone"] == "America/Guayaquil"
    mine, code = found["entries"]
    assert (mine["name"], mine["queue"], mine["source"]) == ("ours", "q", "inventory")
    assert (code["name"], code["queue"], code["source"]) == ("theirs", "routed", "code")
    assert code["due"].endswith("T13:00:00Z")
    assert code["local"].endswith(" 08:00:00")
    # The application's own function is not asked again at each tick.
    assert asked == ["t"]


@dataclass
class Crowd:
    """A beat with 100 entries that are due, at a time that stands still."""

    service: Any
    now: list[float]
    directory: Path

    def tick(self, number: int = 1) -> None:
        for _ in range(number):
            assert self.service.scheduler.tick() == 0

    def listed(self) -> int:
        """Return how many of the entries have run, by the file."""
        found = json.loads((self.directory / "schedule.json").read_text())["entries"]
        assert len(found) == 100
        return sum(entry["runs"] for entry in found)


@pytest.fixture
def crowd(app: Celery, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    now = [100.0]
    monkeypatch.setattr(loaded.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    app.conf.beat_schedule = {
        f"e{n}": {"task": "t", "schedule": schedule(3600)} for n in range(100)
    }
    service = Service(app, scheduler_cls=Scheduler)
    for entry in service.scheduler.schedule.values():
        entry.last_run_at -= timedelta(hours=1)
    service.scheduler.apply_async = lambda *_, **__: None
    beat.watch_service(app, service, Notifier(manager.address), metrics=str(tmp_path / "beat.json"))
    return Crowd(service, now, tmp_path)


def test_beat_does_not_look_at_all_entries_for_each_that_it_sends(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it can't send a thousand entries in a minute."""
    looks: list[int] = []
    stock = compat_beat.events
    monkeypatch.setattr(compat_beat, "events", lambda service: looks.append(1) or stock(service))
    crowd.tick(20)
    assert (crowd.listed(), len(looks)) == (1, 1)
    crowd.now[0] += loaded.LOOK_INTERVAL
    crowd.tick(20)
    assert (crowd.listed(), len(looks)) == (21, 2)


def test_slow_looks_at_all_entries_leave_beat_most_of_its_time(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 20,000 entries a look lasts most of a second."""
    looks: list[float] = []
    stock = compat_beat.events

    def events(service: Any) -> Any:
        looks.append(crowd.now[0])
        crowd.now[0] += 0.7
        return stock(service)

    monkeypatch.setattr(compat_beat, "events", events)
    for _ in range(90):
        crowd.tick()
        crowd.now[0] += 0.1
    assert looks == [100, pytest.approx(107.7, abs=0.11)]
    crowd.tick(10)
    crowd.service.sync()
    assert crowd.listed() == 100


def test_beat_lists_its_entries_before_it_pauses(crowd: Crowd) -> None:
    crowd.tick(100)
    assert crowd.service.scheduler.tick() > loaded.LOOK_INTERVAL
    assert crowd.listed() == 100


def test_a_beat_that_is_stopped_lists_its_entries_once_more(crowd: Crowd) -> None:
    crowd.tick(20)
    crowd.service.sync()
    assert crowd.listed() == 20
    assert len(json.loads((crowd.directory / "beat.json").read_text())["entries"]) == 100


def test_beat_knows_the_next_entry_without_a_look_at_all(crowd: Crowd) -> None:
    crowd.tick(3)
    found = compat_beat.next_due(crowd.service)
    assert found == compat_beat.scheduled(compat_beat.events(crowd.service) or [])
    assert found is not None
    assert found[0] == 100


def test_a_beat_without_entries_also_ticks(
    app: Celery, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    app.conf.beat_schedule = {}
    service = Service(app, scheduler_cls=Scheduler)
    service.scheduler.schedule.clear()
    beat.watch_service(app, service, Notifier(manager.address))
    service.scheduler.tick()
    path = tmp_path / "tick"
    assert abs(path.stat().st_mtime - time.time()) < 60


def test_ticks_are_recorded_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(loaded.time, "monotonic", lambda: now[0])
    tick = loaded.Tick(str(tmp_path))
    path = tmp_path / "tick"
    for moment, noted in ((100.0, True), (101.0, False), (102.5, True)):
        now[0] = moment
        path.unlink(missing_ok=True)
        tick.note()
        assert path.exists() is noted, moment
    # Beat continues in any case, also without a unit and its file.
    now[0] = 200.0
    loaded.Tick(str(tmp_path / "missing")).note()
    loaded.Tick(None).note()


def test_a_schedule_that_is_withheld_is_empty_and_stays_so() -> None:
    schedule = PinnedSchedule({"a": {"task": "t"}}, frozenset(), {"b": {"task": "t"}})
    assert set(schedule) == {"a", "b"}
    schedule.withhold()
    schedule["c"] = {"task": "t"}
    schedule.update(a={"task": "t"})
    schedule.replace({"d": {"task": "t"}})
    assert (dict(schedule), schedule.own, schedule.overruled) == ({}, {"a"}, set())
