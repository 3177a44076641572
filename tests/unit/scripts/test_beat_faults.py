"""The simulation of several beats: nothing is sent twice or missed, and its judge would notice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, _state

from celery_fleet.beat.database import scheduler
from celery_fleet.config.entries import EACH, ONCE, SKIP
from scripts.beat_faults.__main__ import HEADINGS, MARKS, PAGE, simulate
from scripts.beat_faults.beats import BEGIN, SCHEDULERS, SimulatedBeat, database
from scripts.beat_faults.simulation import FAULTS
from scripts.beat_faults.verdict import Arrival, Judge, Period, RunCount
from scripts.clock_changes import DATABASE, ENTRIES, FILE, Clock


def at(minute: float) -> datetime:
    return datetime(2027, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)


SLOTS = [at(10), at(20), at(30)]
END = at(40)


def arrivals(*minutes: float) -> list[Arrival]:
    return [(at(minute), at(minute)) for minute in minutes]


def up(*minutes: tuple[float, float]) -> list[Period]:
    return [(at(begin), at(end)) for begin, end in minutes]


@pytest.mark.parametrize(
    ("policy", "sent", "ran", "wanted"),
    [
        (ONCE, (10, 20, 30), [(0, 40)], RunCount(3)),
        (ONCE, (10, 10.1, 20, 30), [(0, 40)], RunCount(4, doubled=1)),
        # A message before its slot is none of this slot.
        (ONCE, (9.9, 20, 30), [(0, 40)], RunCount(3, doubled=1, missed=1)),
        (ONCE, (10, 30), [(0, 40)], RunCount(2, missed=1)),
        (ONCE, (10, 20), [(0, 40)], RunCount(2, missed=1)),
        (ONCE, (10, 30), [(0, 15), (29, 40)], RunCount(2, missed=1)),
        (ONCE, (10, 30), [(0, 15), (29.5, 40)], RunCount(2, excused=1)),
        # The beats take turns, and none runs for long.
        (ONCE, (10, 30), [(0, 15), (20, 20.5), (20.5, 21), (30, 40)], RunCount(2, excused=1)),
        # It came too late.
        (ONCE, (10, 25, 30), [(0, 40)], RunCount(3, missed=1)),
        (ONCE, (10, 25, 30), [(0, 15), (24.5, 40)], RunCount(3)),
        (EACH, (10, 30.1, 30.2), [(0, 15), (30, 40)], RunCount(3)),
        (EACH, (10, 30.1), [(0, 15), (30, 40)], RunCount(2, missed=1)),
        (EACH, (10, 30.1, 30.2, 30.3), [(0, 15), (30, 40)], RunCount(4, doubled=1)),
        (SKIP, (10, 30), [(0, 15), (20.5, 40)], RunCount(2, excused=1)),
        (SKIP, (10, 30), [(0, 15), (20.2, 40)], RunCount(2, missed=1)),
    ],
)
def test_runs_are_compared_with_slots(
    policy: str, sent: tuple[float, ...], ran: list[tuple[float, float]], wanted: RunCount
) -> None:
    assert Judge(up(*ran)).crontab(arrivals(*sent), SLOTS, policy, END) == wanted


@pytest.mark.parametrize(
    ("sent", "ran", "wanted"),
    [
        ((0, 10, 20), [(0, 40)], RunCount(3)),
        ((0, 9.9, 20), [(0, 40)], RunCount(3, doubled=1)),
        ((0, 10, 21), [(0, 40)], RunCount(3, missed=1)),
        ((0, 10, 25), [(0, 15), (24.5, 40)], RunCount(3)),
    ],
)
def test_runs_are_compared_with_an_interval(
    sent: tuple[float, ...], ran: list[tuple[float, float]], wanted: RunCount
) -> None:
    assert Judge(up(*ran)).interval(arrivals(*sent), 600) == wanted


def test_a_long_period_counts_although_a_short_one_began_later() -> None:
    judge = Judge(up((0, 100), (50, 51), (60, 61)))
    assert judge.was_able(at(70), at(80))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FILE, DATABASE])
def test_beats_that_end_at_random_send_each_slot_once(kind: str) -> None:
    faults, found = simulate(kind, BEGIN + timedelta(days=20))
    assert set(faults) == set(FAULTS)
    assert {name for name, one in found.items() if one.doubled or one.missed} == set()
    assert {name for name, one in found.items() if not one.sent} == set()


def test_a_beat_that_returns_puts_no_older_run_back() -> None:
    """It would save it before it hears that another one sends, and that one would send the entry again."""
    with database(Clock(BEGIN)):
        from django_celery_beat.models import PeriodicTask
        from django_celery_beat.schedulers import ModelEntry

        def loaded() -> ModelEntry:
            return ModelEntry(PeriodicTask.objects.get(name="0:00"), app=Celery("shop"))

        frozen, follower = loaded(), loaded()
        for entry, hours in ((follower, 2), (frozen, 1), (frozen, 3)):
            before = loaded().last_run_at
            entry.model.last_run_at = BEGIN + timedelta(hours=hours)
            scheduler._save_newer(entry)
            assert loaded().last_run_at == max(before, entry.model.last_run_at)
        PeriodicTask.objects.filter(name="0:00").update(last_run_at=None)
        scheduler._save_newer(frozen)
        assert loaded().last_run_at == BEGIN + timedelta(hours=3)


@pytest.mark.parametrize(
    ("minutes", "last", "count"),
    [
        # A new time, or switched on again, after the run on the broker: it counts from then, and may run.
        (-10, 0, 0),
        # The leader before this one died before it saved the run.
        (10, 10, 1),
        # The clock of that one was ahead.
        (60, 60, 1),
    ],
)
def test_a_leader_continues_with_the_later_time(
    tmp_path: Path, minutes: float, last: float, count: int
) -> None:
    def after(minute: float) -> datetime:
        return BEGIN + timedelta(minutes=minute)

    elected: Any = SimpleNamespace(
        sent=lambda: {"0:00": after(minutes).timestamp()},
        forget=lambda names: None,
        note=lambda runs: None,
        send=None,
    )
    clock = Clock(after(30))
    current = _state._tls.current_app
    with database(clock):
        from django_celery_beat.models import PeriodicTask

        PeriodicTask.objects.filter(name="0:00").update(
            last_run_at=None, date_changed=BEGIN, one_off=True
        )
        beat = SimulatedBeat(DATABASE, "memory://", tmp_path, lambda: clock.now, elected)
        beat.lead()
        entry = beat._service.scheduler.schedule["0:00"]
        assert (entry.last_run_at, entry.total_run_count) == (after(last), count)
        beat.close(saved=False)
    _state._set_current_app(current)


def test_the_page_has_no_run_that_was_doubled_or_missed() -> None:
    text = PAGE.read_text()
    rows = text[text.index(MARKS[0]) : text.index(MARKS[1])].splitlines()
    table = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "|" in row]
    assert table[0] == list(HEADINGS)
    assert [row[4:6] for row in table[2:]] == [["0", "0"]] * len(SCHEDULERS) * len(ENTRIES)
