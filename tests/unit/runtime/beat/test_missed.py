"""What happens to runs that were missed: beat's own code with a moved clock, one beat after another."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from celery.beat import PersistentScheduler, Service
from celery.schedules import crontab, schedule

from celery_fleet.beat import missed
from celery_fleet.beat import steps as beat
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.compat import clock_changes, last_runs
from celery_fleet.compat.beat import keep_schedule_in
from celery_fleet.compat.schedule import differs
from celery_fleet.config.entries import Missed, parse_entries, parse_missed
from celery_fleet.config.settings import parse
from celery_fleet.supervision.notify import Notifier
from tests.unit.runtime.conftest import Manager, document

BEGIN = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)

EACH, SKIP = Missed("each", 10), Missed("skip")


class Beats:
    """Beats with one schedule file, one after another."""

    def __init__(self, directory: Path, address: str) -> None:
        self.now = BEGIN
        self.zone = "UTC"
        self.settings: dict[str, Any] = {}
        self.counters = directory / "beat.json"
        self.sent: list[tuple[str, str]] = []
        self._address = address
        self._file = directory / "schedule"

    def start(self, entries: dict[str, Any], wanted: dict[str, Missed]) -> Service:
        app: Any = Celery("shop", set_as_current=False, broker="memory://", fixups=[])
        app.conf.update(
            timezone=self.zone,
            beat_sync_every=1,
            result_expires=None,
            beat_schedule={name: {"task": "t", "schedule": made} for name, made in entries.items()},
            **self.settings,
        )
        # Schedules that beat has read from its file ask the current application for the time.
        app.set_current()
        app.now = lambda: self.now.astimezone(app.timezone)
        clock_changes.install()
        keep_schedule_in(ScheduleFile)
        last_runs.count_from_new_times()
        service = Service(app, schedule_filename=str(self._file), scheduler_cls=PersistentScheduler)
        service.scheduler.send_task = lambda *_, **__: None
        runs = missed.install(app, service, wanted)
        beat.watch_service(
            app, service, Notifier(self._address), metrics=str(self.counters), missed=runs
        )
        send = service.scheduler.apply_async

        def sending(entry: Any, *args: Any, **kwargs: Any) -> Any:
            # The sent run is that of the last run that is saved now.
            saved = service.scheduler.schedule[entry.name].last_run_at.astimezone(UTC)
            self.sent.append((entry.name, f"{saved:%H:%M}"))
            return send(entry, *args, **kwargs)

        service.scheduler.apply_async = sending
        return service

    def run(
        self, entries: dict[str, Any], wanted: dict[str, Missed], until: datetime
    ) -> list[tuple[str, str]]:
        """Run a beat until a time; return what it sent, with the times that it saved as those of the runs."""
        self.sent.clear()
        service = self.start(entries, wanted)
        while self.now < until:
            self.now += timedelta(seconds=max(service.scheduler.tick(), 0) + 0.001)
        service.sync()
        return list(self.sent)

    @property
    def counted(self) -> dict[str, dict[str, int]]:
        entries = json.loads(self.counters.read_text())["entries"]
        return {
            name: {key: count for key, count in counts.items() if count}
            for name, counts in entries.items()
        }


@pytest.fixture
def beats(tmp_path: Path, manager: Manager) -> Iterator[Beats]:
    current = _state._tls.current_app
    yield Beats(tmp_path, manager.address)
    _state._set_current_app(current)


def hourly() -> dict[str, Any]:
    return {name: crontab(minute=0) for name in ("once", "each", "skip")}


WANTED = {"each": EACH, "skip": SKIP}


def test_a_crontab(beats: Beats) -> None:
    first = beats.run(hourly(), WANTED, BEGIN + timedelta(hours=1))
    assert sorted(first) == [("each", "11:00"), ("once", "11:00"), ("skip", "11:00")]
    # Runs at 12, 13 and 14 o'clock are missed.
    beats.now = BEGIN + timedelta(hours=4)
    found = beats.run(hourly(), WANTED, BEGIN + timedelta(hours=5))
    late = [one for one in found if one[1] != "15:00"]
    assert sorted(late) == [
        *[("each", "12:00"), ("each", "13:00"), ("each", "14:00")],
        ("once", "14:30"),
    ]
    assert sorted(found[len(late) :]) == sorted(first_at("15:00"))
    counted = beats.counted
    assert (counted["skip"]["sent"], counted["skip"]["skipped"]) == (2, 3)
    assert (counted["each"]["sent"], "collapsed" in counted["each"]) == (5, False)


def first_at(moment: str) -> list[tuple[str, str]]:
    return [(name, moment) for name in ("once", "each", "skip")]


def test_an_interval_keeps_its_times_if_runs_are_skipped_or_sent_one_by_one(beats: Beats) -> None:
    entries = {name: schedule(3600) for name in ("once", "each", "skip")}
    beats.run(entries, WANTED, BEGIN + timedelta(minutes=70))
    beats.now = BEGIN + timedelta(hours=3.5)
    found = beats.run(entries, WANTED, BEGIN + timedelta(hours=5, minutes=10))
    assert [one for one in found if one[0] == "once"] == [("once", "14:00"), ("once", "15:00")]
    times = ["12:30", "13:30", "14:30", "15:30"]
    assert [one for one in found if one[0] == "each"] == [("each", time) for time in times]
    assert [one for one in found if one[0] == "skip"] == [("skip", time) for time in times[2:]]


def test_only_the_latest_runs_are_sent(beats: Beats) -> None:
    entries = {"each": crontab(minute="*")}
    beats.run(entries, {}, BEGIN + timedelta(minutes=2))
    beats.now = BEGIN + timedelta(days=400)
    found = beats.run(entries, {"each": Missed("each", 3)}, beats.now + timedelta(seconds=20))
    assert found == [("each", "10:28"), ("each", "10:29"), ("each", "10:30")]


def test_a_beat_that_dies_continues_where_it_was(beats: Beats) -> None:
    entries = {"each": crontab(minute=0)}
    beats.run(entries, WANTED, BEGIN + timedelta(minutes=40))
    beats.now = BEGIN + timedelta(hours=5)
    beats.sent.clear()
    service = beats.start(entries, WANTED)
    service.scheduler.tick()
    service.scheduler.tick()
    assert beats.sent == [("each", "12:00"), ("each", "13:00")]
    found = beats.run(entries, WANTED, beats.now + timedelta(minutes=1))
    assert found == [("each", "14:00"), ("each", "15:00")]


def test_a_restart_skips_nothing(beats: Beats) -> None:
    """A run that is late by less than a minute was not missed."""
    entries = {"skip": crontab(minute=0)}
    beats.run(entries, WANTED, BEGIN + timedelta(minutes=29))
    beats.now = BEGIN + timedelta(minutes=30, seconds=40)
    assert beats.run(entries, WANTED, beats.now + timedelta(seconds=5)) == [("skip", "11:00")]


def test_a_new_entry_has_missed_nothing(beats: Beats) -> None:
    assert beats.run(hourly(), WANTED, BEGIN + timedelta(minutes=5)) == []


@pytest.mark.parametrize(
    "changed", [crontab(minute=45, hour=10), crontab(minute="*/15"), schedule(60)]
)
def test_a_changed_time_has_missed_nothing(beats: Beats, changed: Any) -> None:
    names = ("once", "each", "skip")
    before = {name: crontab(minute=0, hour=11) for name in names}
    beats.run(before, WANTED, BEGIN + timedelta(minutes=40))
    beats.now = BEGIN + timedelta(days=1, seconds=5)
    after = dict.fromkeys(names, changed)
    assert beats.run(after, WANTED, beats.now + timedelta(seconds=50)) == []
    # From then on the entry can miss runs as any other.
    beats.now += timedelta(minutes=20)
    found = beats.run(after, WANTED, beats.now + timedelta(seconds=5))
    assert [name for name, _ in found].count("once") == 1


class Plain(crontab):
    """A schedule class of an application that can't be compared."""

    __eq__ = object.__eq__


class Broken(crontab):
    def __eq__(self, other: object) -> bool:
        raise AttributeError


def test_a_time_that_can_t_be_compared_counts_as_the_same(beats: Beats) -> None:
    for kind in (Plain, Broken):
        assert not differs(kind(minute=0), kind(minute=30))
    beats.run({"once": Plain(minute=0)}, {}, BEGIN + timedelta(minutes=40))
    beats.now = BEGIN + timedelta(hours=2)
    found = beats.run({"once": Plain(minute=0)}, {}, beats.now + timedelta(minutes=1))
    assert found == [("once", "12:30")]


def test_the_function_that_tells_the_time_is_no_part_of_it() -> None:
    """Celery compares it, and one from beat's file, or from the broker, is never the same."""
    one = crontab(minute=0, nowfun=partial(datetime.now, tz=UTC))
    kept = pickle.loads(pickle.dumps(one))  # noqa: S301  # this test wrote it
    assert one != kept
    assert not differs(one, kept)
    assert differs(one, crontab(minute=5, nowfun=one.nowfun))
    assert one.nowfun is not None


def test_celerys_deadline_also_bounds_what_is_sent_one_by_one(beats: Beats) -> None:
    entries = {"each": crontab(minute=0)}
    beats.run(entries, WANTED, BEGIN + timedelta(minutes=40))
    beats.settings = {"beat_cron_starting_deadline": 2 * 3600}
    beats.now = BEGIN + timedelta(hours=5)
    found = beats.run(entries, WANTED, beats.now + timedelta(minutes=1))
    assert found == [("each", "14:00"), ("each", "15:00")]


def test_slots_that_the_clock_skipped_or_repeated(beats: Beats) -> None:
    beats.zone = "Europe/Berlin"
    for begin, expected in (
        (datetime(2027, 3, 28, 0, 20, tzinfo=UTC), ["01:00", "02:00", "03:00"]),
        (datetime(2027, 10, 30, 23, 20, tzinfo=UTC), ["00:00", "01:00", "02:00"]),
    ):
        beats.now = begin
        beats.run({"each": crontab(minute=0)}, WANTED, begin + timedelta(seconds=1))
        beats.now = begin + timedelta(hours=3)
        found = beats.run({"each": crontab(minute=0)}, WANTED, beats.now + timedelta(minutes=1))
        assert found[-3:] == [("each", time) for time in expected]


def test_a_schedule_that_fails_is_sent_once(
    beats: Beats, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats.run(hourly(), WANTED, BEGIN + timedelta(minutes=40))
    beats.now = BEGIN + timedelta(hours=3)

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("nobody knows")

    monkeypatch.setattr(missed, "slots", fails)
    found = beats.run(hourly(), WANTED, beats.now + timedelta(minutes=1))
    assert sorted(name for name, _ in found) == ["each", "once", "skip"]
    assert "can't be determined" in caplog.text


def test_the_settings_say_what_happens() -> None:
    entries = {"a": {"task": "t", "interval": 5, "missed": "each", "missed_limit": 3}}
    assert parse_entries(entries)["a"].missed == Missed("each", 3)
    settings = document("beat", beat_schedule={**entries, "b": {"task": "t", "interval": 5}})
    settings["beat_missed"] = {"c": {"missed": "skip"}}
    assert parse(settings, "here").missed == {"a": Missed("each", 3), "c": SKIP}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"missed": "never"}, "missed is 'never', not one of once, each, skip"),
        ({"missed": "each", "missed_limit": 0}, "missed_limit must be a number from 1 to 1000"),
        ({"missed": "each", "missed_limit": True}, "missed_limit must be a number from 1 to 1000"),
    ],
)
def test_wrong_settings_are_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        parse_missed(raw)
