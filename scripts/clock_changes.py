"""Run beat's own code with a moved clock over a year, and write what it sends when clocks change.

    python -m scripts.clock_changes           write the tables in docs/schedules.md; this takes about ten minutes
    python -m scripts.clock_changes --check   exit status 1 if they differ from what this finds

`celery.beat.Scheduler` ticks with the entries of the file's scheduler, then with those of django_celery_beat. Nothing
is sent: the moment is noted. The clock jumps from one tick to the next as beat says, by `LONGEST` seconds at most.
Which slots there are is computed separately, by looking at each minute of the year.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

from scripts.restarts.report import table, write_or_check

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

PAGE = ROOT / "docs/schedules.md"

#: The year that is simulated, from its first moment in UTC.
YEAR = 2027

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
)

FILE, DATABASE = "file", "database"

#: Seconds that the clock jumps at most: the longest pause of Celery's beat by default.
LONGEST = 300.0

#: Seconds that a tick takes.
TICK = 0.001

#: Seconds after its slot in which a run counts as that of the slot.
NEAR = 1.0

#: Hours around a change that the first table shows.
AROUND = timedelta(hours=1)

_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class SimulatedEntry:
    """An entry of the simulated schedule.

    Attributes:
        name: Its name in the tables.
        fields: Fields of its crontab; none for an interval.
        minutes: The minutes in which it is due, to find its slots without Celery's code.
        hours: The same, hours; None for each.
        weekdays: The same, days of the week with Monday as 0; None for each.
        interval: Seconds of an interval.
    """

    name: str
    fields: Mapping[str, Any] | None = None
    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] | None = None
    weekdays: frozenset[int] | None = None
    interval: float = 0.0

    def matches(self, local: datetime) -> bool:
        """Return whether a time of the wall clock is one of its slots."""
        return (
            local.minute in self.minutes
            and (self.hours is None or local.hour in self.hours)
            and (self.weekdays is None or local.weekday() in self.weekdays)
        )


def _of(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


ENTRIES = (
    SimulatedEntry("every 30 minutes", {"minute": "*/30"}, _of(0, 30)),
    SimulatedEntry("hourly at :15", {"minute": 15}, _of(15)),
    SimulatedEntry(
        "every 2 hours", {"minute": 0, "hour": "*/2"}, _of(0), frozenset(range(0, 24, 2))
    ),
    SimulatedEntry("0:00", {"minute": 0, "hour": 0}, _of(0), _of(0)),
    SimulatedEntry("1:30", {"minute": 30, "hour": 1}, _of(30), _of(1)),
    SimulatedEntry("2:30", {"minute": 30, "hour": 2}, _of(30), _of(2)),
    SimulatedEntry("2:10 and 2:35", {"minute": "10,35", "hour": 2}, _of(10, 35), _of(2)),
    SimulatedEntry("3:00", {"minute": 0, "hour": 3}, _of(0), _of(3)),
    SimulatedEntry(
        "2:30 on Sundays",
        {"minute": 30, "hour": 2, "day_of_week": "sun"},
        _of(30),
        _of(2),
        _of(6),
    ),
    SimulatedEntry("interval 5400 s", interval=5400.0),
)

Sent = dict[str, list[datetime]]


class Clock:
    """The moved clock."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def shown(self) -> type[datetime]:
        """Return a class in place of `datetime`, whose `now` is this clock's."""
        clock = self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return clock.now.astimezone(tz)

        return Moved


def simulate(
    zone: str,
    begin: datetime,
    end: datetime,
    kind: str = FILE,
    chosen: Sequence[SimulatedEntry] = ENTRIES,
    last: datetime | None = None,
) -> Sent:
    """Return when beat sends each entry.

    Args:
        zone: The time zone of the schedule.
        begin: When beat starts.
        end: When it stops.
        kind: `FILE` or `DATABASE`.
        chosen: The entries.
        last: When all of them ran last, by default when beat starts.
    """
    from celery import Celery
    from celery.beat import Scheduler

    from celery_fleet.compat import clock_changes

    clock_changes.install()
    clock = Clock(begin)
    app: Any = Celery("shop", set_as_current=False, broker="memory://", fixups=[])
    app.conf.update(timezone=zone, enable_utc=True)
    app.now = lambda: clock.now.astimezone(app.timezone)
    found: Sent = {entry.name: [] for entry in chosen}
    scheduler: Any = Scheduler(app, max_interval=LONGEST, lazy=True)
    # Beat would connect to the broker for it.
    scheduler.producer = None
    scheduler.apply_async = lambda entry, **_: found[entry.name].append(clock.now)
    ran = last or begin
    make = _in_file if kind == FILE else _in_database
    with nullcontext() if kind == FILE else _in_django(app, clock):
        scheduler.schedule.update({entry.name: make(app, entry, ran) for entry in chosen})
        while clock.now < end:
            clock.now += timedelta(seconds=max(scheduler.tick(), 0.0) + TICK)
    return found


def _in_file(app: Any, entry: SimulatedEntry, ran: datetime) -> Any:
    from celery.beat import ScheduleEntry
    from celery.schedules import crontab, schedule

    made = crontab(**entry.fields) if entry.fields else schedule(entry.interval)
    last = ran.astimezone(app.timezone)
    return ScheduleEntry(entry.name, "t", schedule=made, last_run_at=last, app=app)


@contextmanager
def moved_django(clock: Clock) -> Iterator[None]:
    """Give django_celery_beat the clock; its modules have no other way to learn another time."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            INSTALLED_APPS=["django_celery_beat"],
            USE_TZ=True,
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        )
        django.setup()
    from django_celery_beat import models, schedulers, tzcrontab

    before: Any = (schedulers.datetime, tzcrontab.datetime, models.now)
    moved = clock.shown()
    tzcrontab.datetime = moved
    schedulers.datetime = SimpleNamespace(datetime=moved, timedelta=timedelta)
    models.now = lambda: clock.now
    try:
        yield
    finally:
        schedulers.datetime, tzcrontab.datetime, models.now = before


@contextmanager
def _in_django(app: Any, clock: Clock) -> Iterator[None]:
    """Give django_celery_beat the application and the clock."""
    from celery import _state

    current = _state._tls.current_app  # noqa: SLF001  # `current_app` would make an application if there is none
    with moved_django(clock):
        app.set_current()
        try:
            yield
        finally:
            _state._set_current_app(current)  # noqa: SLF001  # as above


def _in_database(app: Any, entry: SimulatedEntry, ran: datetime) -> Any:
    from django_celery_beat import models, schedulers

    row = models.PeriodicTask(name=entry.name, task="t", enabled=True, last_run_at=ran)
    kind, made = as_row(entry, str(app.timezone))
    setattr(row, kind, made)
    return schedulers.ModelEntry(row, app=app)


def as_row(entry: SimulatedEntry, zone: str) -> tuple[str, Any]:
    """Return the row of an entry's schedule, which is not saved, and the field of an entry's row for it."""
    from django_celery_beat import models

    if entry.fields:
        return "crontab", models.CrontabSchedule(**entry.fields, timezone=ZoneInfo(zone))
    return "interval", models.IntervalSchedule(every=entry.interval, period="seconds")


# --- what should be sent ---


@lru_cache
def changes(zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """Return the first moments after each change of a zone's clock, in UTC."""
    there, found = ZoneInfo(zone), []
    moment = begin
    while moment < end:
        if moment.astimezone(there).utcoffset() != (moment - _MINUTE).astimezone(there).utcoffset():
            found.append(moment)
        moment += _MINUTE
    return found


def slots(entry: SimulatedEntry, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """Return the moments in UTC at which an entry should be sent.

    A time that the clock shows twice is a slot once, unless the entry is due in each hour. Of the slots that the clock
    skips, the first is due as much later as the clock skips, but not after the next slot.
    """
    there = ZoneInfo(zone)
    found = set()
    moment = begin
    while moment < end:
        local = moment.astimezone(there)
        if entry.matches(local) and (local.fold == 0 or entry.hours is None):
            found.add(moment)
        moment += _MINUTE
    for change in changes(zone, begin, end):
        after = change.astimezone(there)
        before = (change - _MINUTE).astimezone(there).replace(tzinfo=None) + _MINUTE
        skipped = after.replace(tzinfo=None) - before
        times = (before + _MINUTE * number for number in range(skipped // _MINUTE))
        first = next((time for time in times if entry.matches(time)), None)
        if first is not None:
            due = change + (first - before)
            found.add(min([due, *(one for one in found if change <= one)]))
    return sorted(found)


@dataclass(frozen=True)
class SlotCount:
    """How an entry was sent: the number of its slots, of those that were missed, and of runs without a slot."""

    slots: int
    missed: int
    extra: int


def judge(sent: Sequence[datetime], wanted: Sequence[datetime]) -> SlotCount:
    """Compare when an entry was sent with its slots; both are in order."""
    near, met, number = timedelta(seconds=NEAR), 0, 0
    for slot in wanted:
        while number < len(sent) and sent[number] < slot:
            number += 1
        if number < len(sent) and sent[number] < slot + near:
            met, number = met + 1, number + 1
    return SlotCount(len(wanted), len(wanted) - met, len(sent) - met)


def judge_interval(entry: SimulatedEntry, begin: datetime, sent: Sequence[datetime]) -> SlotCount:
    """Compare the pauses between an interval's runs with what they should be, to `NEAR`."""
    missed = extra = 0
    for before, after in zip([begin, *sent], sent, strict=False):
        pause = (after - before).total_seconds()
        missed += pause > entry.interval + NEAR
        extra += pause < entry.interval - NEAR
    return SlotCount(len(sent), missed, extra)


# --- the page ---


def shown(times: Sequence[datetime], zone: str, first: datetime, last: datetime) -> str:
    """Return the local times in a range; in bold those that the clock shows for the second time."""
    texts = []
    for time in times:
        if first <= time < last:
            local = time.astimezone(ZoneInfo(zone))
            text = f"{local:%H:%M}"
            texts.append(f"**{text}**" if local.fold else text)
    return " ".join(texts) or "-"


def change_rows(zone: str, sent: Sent, begin: datetime, end: datetime) -> Iterator[list[str]]:
    """Yield a row of the first table for each change of a zone's clock."""
    there = ZoneInfo(zone)
    for change in changes(zone, begin, end):
        after = change.astimezone(there)
        before = (change - _MINUTE).astimezone(there).replace(tzinfo=None) + _MINUTE
        length = abs(after.replace(tzinfo=None) - before)
        first, last = change - AROUND - length, change + length + AROUND
        what = f"{zone}, {after:%Y-%m-%d}, {before:%H:%M} becomes {after:%H:%M}"
        yield [what, *(shown(sent[entry.name], zone, first, last) for entry in ENTRIES)]


def year_rows(zone: str, found: Mapping[str, Sent], begin: datetime, end: datetime) -> list[str]:
    """Return the row of the second table for a zone."""
    row = [zone]
    for entry in ENTRIES:
        verdicts = []
        for kind in (FILE, DATABASE):
            sent = [one for one in found[kind][entry.name] if one < end]
            if entry.fields:
                verdicts.append(judge(sent, slots(entry, zone, begin, end)))
            else:
                verdicts.append(judge_interval(entry, begin, sent))
        missed = sum(one.missed for one in verdicts)
        extra = sum(one.extra for one in verdicts)
        row.append(f"{verdicts[0].slots:,} / {missed} / {extra}")
    return row


def section(zones: Sequence[str] = ZONES) -> str:
    """Return both tables."""
    begin = datetime(YEAR, 1, 1, tzinfo=UTC)
    end = datetime(YEAR + 1, 1, 1, tzinfo=UTC)
    first: list[list[str]] = []
    second: list[list[str]] = []
    # Earlier, because a beat that starts exactly in a slot does not send it.
    start = begin - timedelta(seconds=1)
    for zone in zones:
        found = {kind: simulate(zone, start, end, kind) for kind in (FILE, DATABASE)}
        first += change_rows(zone, found[FILE], begin, end)
        second.append(year_rows(zone, found, begin, end))
    names = [entry.name for entry in ENTRIES]
    return "\n\n".join(
        (
            "What is sent around each change, in local time. Times in bold are shown by the clock for the second time.",
            table(["Zone and change", *names], first),
            f"The whole of {YEAR}: slots / missed / sent without a slot, the last two of both schedulers added up.",
            table(["Zone", *names], second),
        )
    )


def main(argv: Sequence[str] = ()) -> int:
    """Write or check the tables."""
    return write_or_check(PAGE, section(), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
