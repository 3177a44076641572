"""What beat sends when clocks change: its own code with a moved clock, compared with times typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import schedules
from celery.utils.time import ffwd as forward
from celery.utils.time import remaining

from celery_fleet.compat import clock_changes as compat
from scripts import clock_changes
from scripts.clock_changes import DATABASE, ENTRIES, FILE, SimulatedEntry
from scripts.restarts.report import END, between

BERLIN, LORD_HOWE = "Europe/Berlin", "Australia/Lord_Howe"

DAILY = SimulatedEntry("daily", {"minute": 30, "hour": 2})
HALVES = SimulatedEntry("halves", {"minute": "*/30"})
TWO = SimulatedEntry("two", {"minute": "10,35", "hour": 2})
INTERVAL = SimulatedEntry("interval", interval=3600.0)


def at(zone: str, text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def local(times: Sequence[datetime], zone: str) -> str:
    return " ".join(f"{time.astimezone(ZoneInfo(zone)):%H:%M}" for time in times)


@pytest.mark.parametrize("kind", [FILE, DATABASE])
@pytest.mark.parametrize(
    ("zone", "begin", "hours", "daily", "halves", "two"),
    [
        (BERLIN, "2027-03-28 00:50", 3, "03:30", "01:00 01:30 03:00 03:30 04:00 04:30", "03:10"),
        (
            BERLIN,
            "2027-10-31 01:50",
            3,
            "02:30",
            "02:00 02:30 02:00 02:30 03:00 03:30",
            "02:10 02:35",
        ),
        # Here the clock skips half an hour; what it skips must not push out what it does not.
        (LORD_HOWE, "2027-10-03 00:50", 3, "02:30", "01:00 01:30 02:30 03:00 03:30 04:00", "02:35"),
        (
            LORD_HOWE,
            "2027-04-04 00:50",
            3,
            "02:30",
            "01:00 01:30 01:30 02:00 02:30 03:00",
            "02:10 02:35",
        ),
        (
            "UTC",
            "2027-03-28 00:50",
            3,
            "02:30",
            "01:00 01:30 02:00 02:30 03:00 03:30",
            "02:10 02:35",
        ),
    ],
)
def test_beat_sends_each_slot_once(
    zone: str, begin: str, hours: int, daily: str, halves: str, two: str, kind: str
) -> None:
    start = at(zone, begin)
    found = clock_changes.simulate(
        zone, start, start + timedelta(hours=hours), kind, [DAILY, HALVES, TWO, INTERVAL]
    )
    assert local(found["daily"], zone) == daily
    assert local(found["halves"], zone) == halves
    assert local(found["two"], zone) == two
    pauses = [
        after - before
        for before, after in zip([start, *found["interval"]], found["interval"], strict=False)
    ]
    assert len(pauses) == hours - 1
    assert all(abs(pause.total_seconds() - 3600) < 1 for pause in pauses)


@pytest.mark.parametrize("kind", [FILE, DATABASE])
def test_a_start_in_the_second_pass_sends_no_slot_of_the_first(kind: str) -> None:
    start = at(BERLIN, "2027-10-31 02:16", fold=1)
    found = clock_changes.simulate(
        BERLIN, start, start + timedelta(hours=2), kind, [DAILY, HALVES, INTERVAL]
    )
    assert found["daily"] == []
    assert local(found["halves"], BERLIN) == "02:30 03:00 03:30 04:00"
    assert local(found["interval"], BERLIN) == "03:16"


@pytest.mark.parametrize("kind", [FILE, DATABASE])
def test_a_slot_that_was_missed_in_the_first_pass_is_sent_once(kind: str) -> None:
    start = at(BERLIN, "2027-10-31 02:16", fold=1)
    last = start - timedelta(days=1)
    found = clock_changes.simulate(BERLIN, start, start + timedelta(hours=2), kind, [DAILY], last)
    assert local(found["daily"], BERLIN) == "02:16"


def test_celery_itself_would_send_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, Celery has corrected it, and our part can go with the oldest minor that has the fault."""

    def stock(self: Any, last_run_at: datetime, ffwd: Any = forward) -> timedelta:
        """Return what celery/schedules.py does."""
        left: timedelta = remaining(*self.remaining_delta(last_run_at, ffwd=ffwd))
        return left

    monkeypatch.setattr(compat, "install", lambda: None)
    monkeypatch.setattr(schedules.crontab, "remaining_estimate", stock)
    start = at(BERLIN, "2027-10-31 02:16", fold=1)
    found = clock_changes.simulate(BERLIN, start, start + timedelta(seconds=1), FILE, [DAILY])
    assert len(found["daily"]) > 100


def test_the_judge_counts_missed_and_additional_runs() -> None:
    slots = [datetime(2027, 1, 1, hour, tzinfo=UTC) for hour in range(4)]
    second = timedelta(seconds=1)
    judge = clock_changes.judge
    assert judge(slots, slots) == clock_changes.SlotCount(4, 0, 0)
    assert judge([*slots[:1], *slots[2:]], slots) == clock_changes.SlotCount(4, 1, 0)
    assert judge(sorted([*slots, slots[1]]), slots) == clock_changes.SlotCount(4, 0, 1)
    assert judge([slot + second for slot in slots], slots) == clock_changes.SlotCount(4, 4, 4)


@pytest.mark.parametrize(("zone", "day"), [(BERLIN, "2027-10-31"), (LORD_HOWE, "2027-10-03")])
def test_a_part_of_the_page_is_up_to_date(zone: str, day: str) -> None:
    """The test of a soak checks the whole page."""
    begin = at("UTC", day) - timedelta(days=1)
    end = begin + timedelta(days=2)
    crontabs = [entry for entry in ENTRIES if entry.fields]
    sent = clock_changes.simulate(zone, begin - timedelta(seconds=1), end, FILE, crontabs)
    sent.update({entry.name: [] for entry in ENTRIES if not entry.fields})
    (row,) = clock_changes.change_rows(zone, sent, begin, end)
    # An interval's times depend on the beginning of the year.
    assert f"| {' | '.join(row[:-1])} | " in clock_changes.PAGE.read_text()


@pytest.mark.long
@pytest.mark.soak
def test_the_page_is_up_to_date_and_no_slot_was_missed_or_sent_twice() -> None:
    page = clock_changes.PAGE.read_text()
    assert page == between(page, clock_changes.section(), clock_changes.PAGE)
    year = page.partition("The whole of ")[2].partition(END)[0]
    cells = [
        cell
        for row in year.splitlines()
        if row.startswith("|")
        for cell in row.split(" | ")
        if cell.count(" / ") == 2
    ]
    assert len(cells) == len(clock_changes.ZONES) * len(ENTRIES)
    assert all(cell.strip(" |").endswith(" / 0 / 0") for cell in cells), cells
