"""What beat sends after a clock was ahead or behind: its own code with a moved clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, _state
from celery.beat import PersistentScheduler, Service
from celery.schedules import crontab, schedule

from celery_fleet.beat import clock_ahead, schedule_file
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.compat import clock_changes, redbeat
from celery_fleet.compat.beat import keep_schedule_in
from tests.fleet import wait_for
from tests.unit.runtime.beat.real import RealBeat

BEGIN = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)

HOUR = timedelta(hours=1)

MINUTE = timedelta(minutes=1)


class Host:
    """A host whose clock may be moved, with one beat after another."""

    def __init__(self, directory: Path) -> None:
        self.now = BEGIN
        self.passed = 0.0
        self.file = directory / "schedule"
        self.sent: list[tuple[str, str]] = []
        self.noted: dict[str, float] = {}
        self.broker_is_away = False
        self._service: Any = None

    def note(self, runs: Mapping[str, float]) -> None:
        if self.broker_is_away:
            raise redbeat.AWAY[0]
        self.noted.update(runs)

    def start(self, **entries: Any) -> None:
        app: Any = Celery("shop", set_as_current=False, broker="memory://", fixups=[])
        named = {name: {"task": name, "schedule": made} for name, made in entries.items()}
        app.conf.update(timezone="UTC", result_expires=None, beat_schedule=named)
        app.set_current()
        app.now = lambda: self.now.astimezone(app.timezone)
        clock_changes.install()
        keep_schedule_in(ScheduleFile)
        self._service = Service(
            app, 5, schedule_filename=str(self.file), scheduler_cls=PersistentScheduler
        )
        self._service.scheduler.send_task = self._send
        clock_ahead.watch(app, self._service, self.note)

    def _send(self, name: str, *_: Any, **__: Any) -> None:
        self.sent.append((name, f"{self.now:%H:%M}"))

    def run(self, length: timedelta) -> list[tuple[str, str]]:
        """Let beat tick for so long; return what it sent, and when by the host's clock."""
        self.sent.clear()
        end = self.passed + length.total_seconds()
        while self.passed < end:
            pause = max(self._service.scheduler.tick(), 0) + 0.001
            self.passed += pause
            self.now += timedelta(seconds=pause)
        return list(self.sent)

    def stop(self) -> None:
        self._service.sync()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    current = _state._tls.current_app
    made = Host(tmp_path)
    clock = SimpleNamespace(time=lambda: made.now.timestamp(), monotonic=lambda: made.passed)
    monkeypatch.setattr(clock_ahead, "time", clock)
    yield made
    _state._set_current_app(current)


def test_beat_goes_on_when_the_clock_is_put_back(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    daily = crontab(minute=0, hour=11)
    host.start(often=schedule(600), minutely=crontab(), hourly=crontab(minute=0), daily=daily)
    host.run(50 * MINUTE)
    host.now -= HOUR
    back = host.now
    # Nothing counts as missed.
    assert host.run(timedelta(seconds=30)) == []
    assert host.run(9 * MINUTE) == [("minutely", f"10:{minute}") for minute in range(21, 30)]
    found = host.run(3 * HOUR)
    assert [one for one in found if one[0] == "often"][:2] == [
        ("often", "10:30"),
        ("often", "10:40"),
    ]
    # What was sent at 11:00 by the wrong clock is not sent at 11:00 again.
    assert [one for one in found if one[0] in ("hourly", "daily")] == [
        ("hourly", "12:00"),
        ("hourly", "13:00"),
    ]
    assert set(host.noted) == {"often", "minutely"}
    assert {round(moment) for moment in host.noted.values()} == {round(back.timestamp())}
    told = [one.message for one in caplog.records if "by a clock that was ahead" in one.message]
    assert sorted(message.split()[0] for message in told) == ["minutely", "often"]


def test_a_clock_that_was_a_year_ahead(host: Host) -> None:
    host.now += timedelta(days=365)
    host.start(hourly=crontab(minute=0), weekly=crontab(minute=0, hour=12, day_of_week=1))
    host.run(8 * 24 * HOUR)
    host.now = BEGIN
    found = host.run(2 * HOUR)
    assert sorted(found) == [("hourly", "11:00"), ("hourly", "12:00"), ("weekly", "12:00")]


def test_a_correction_is_saved_at_once(host: Host) -> None:
    host.start(often=schedule(600))
    host.run(30 * MINUTE)
    host.now -= HOUR
    host.run(MINUTE)
    (entry,) = schedule_file.read(host.file)["entries"].values()
    assert entry.last_run_at <= host.now
    assert entry.total_run_count == 2


def test_a_restart_does_not_hide_that_the_clock_was_ahead(host: Host) -> None:
    entries = {"often": schedule(60), "minutely": crontab()}
    host.start(**entries)
    host.run(30 * MINUTE)
    host.stop()
    host.now -= 5 * HOUR
    host.start(**entries)
    assert host.run(9 * MINUTE) == []
    assert {name for name, _ in host.run(3 * MINUTE)} == {"often", "minutely"}


def test_a_clock_that_is_behind_when_the_host_boots_doubles_nothing(host: Host) -> None:
    entries = {"rare": schedule(4 * 3600), "hourly": crontab(minute=0)}
    host.start(**entries)
    host.run(5 * HOUR)
    host.stop()
    host.now -= 5 * HOUR
    host.start(**entries)
    assert host.run(9 * MINUTE) == []
    host.now += 5 * HOUR
    assert host.run(15 * MINUTE) == []
    assert host.noted == {}


def test_a_slow_or_late_clock_changes_nothing(host: Host) -> None:
    host.start(often=schedule(600))
    host.run(30 * MINUTE)
    host.now -= timedelta(seconds=50)
    host.run(30 * MINUTE)
    host.now += HOUR
    host.run(HOUR)
    assert host.noted == {}


def test_beat_looks_again_when_the_broker_is_back(host: Host) -> None:
    """The next leader continues with the times that the broker has."""
    host.start(minutely=crontab())
    host.run(30 * MINUTE)
    host.now -= HOUR
    host.broker_is_away = True
    assert host.run(MINUTE) == []
    host.broker_is_away = False
    assert host.run(2 * MINUTE) != []
    assert set(host.noted) == {"minutely"}


@pytest.mark.slow
def test_a_single_beat(real_beat: RealBeat) -> None:
    """The test of several beats is that of taking over."""
    tick = {"task": "shop.tick", "interval": 1}
    with real_beat.running(tick=tick):
        wait_for(lambda: real_beat.arrived("shop.tick") >= 1)
    kept = ScheduleFile.open(str(real_beat.directory / "schedule"))
    kept["entries"]["tick"].last_run_at += timedelta(days=1)
    kept.sync()
    with (real_beat.directory / "shop.py").open("a") as lines:
        lines.write("from celery_fleet.beat import clock_ahead\nclock_ahead.PAUSE = 2\n")
    number = real_beat.arrived("shop.tick")
    with real_beat.running(tick=tick):
        wait_for(lambda: real_beat.arrived("shop.tick") >= number + 2)
