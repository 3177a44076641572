"""Slots of a schedule, and how an entry's runs compare with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab, schedule

from celery_fleet.beat import slots

ZONE = ZoneInfo("America/Guayaquil")
DAY = datetime(2026, 11, 21, tzinfo=ZONE)


def app() -> Any:
    return Celery("x", set_as_current=False, timezone=str(ZONE), enable_utc=True, fixups=[])


def daily() -> Any:
    return crontab(minute=0, hour=3, app=app())


def at(days: int, hours: float) -> datetime:
    return DAY + timedelta(days=days, hours=hours)


def hours(found: list[datetime]) -> list[float]:
    return [(one - DAY).total_seconds() / 3600 for one in found]


def test_slots_are_the_latest_and_in_order() -> None:
    assert hours(slots.slots(daily(), at(0, 3), at(3, 2))) == [27, 51]
    assert hours(slots.slots(daily(), at(0, 3), at(3, 3))) == [27, 51, 75]
    assert hours(slots.slots(daily(), at(-900, 3), at(3, 3), 2)) == [51, 75]
    every = schedule(5400, app=app())
    assert hours(slots.slots(every, at(0, 0), at(0, 5))) == [1.5, 3, 4.5]
    assert hours(slots.slots(every, at(-900, 0), at(0, 5), 2)) == [3, 4.5]
    assert slots.slots(every, at(0, 5), at(0, 4)) == []


def test_a_schedule_keeps_its_clock() -> None:
    made = daily()
    slots.slots(made, at(0, 0), at(2, 0))
    assert made.nowfun is None


@pytest.mark.parametrize(
    ("made", "last", "now", "drift", "missed"),
    [
        (daily(), at(0, 3.001), at(0, 12), 3.6, 0),
        # Beat sends 10 ms early.
        (daily(), at(0, 3) - timedelta(milliseconds=10), at(0, 12), 0.0, 0),
        (daily(), at(0, 3), at(3, 12), 0.0, 3),
        # A run that is late by less than a minute was not missed.
        (daily(), at(0, 3), at(1, 3.01), 0.0, 0),
        (daily(), at(0, 3), at(1, 3.02), 0.0, 1),
        (schedule(3600, app=app()), at(0, 3), at(0, 3.5), None, 0),
        (schedule(3600, app=app()), at(0, 3), at(0, 6.5), None, 3),
    ],
)
def test_an_entry_and_its_last_run(
    made: Any, last: datetime, now: datetime, drift: float | None, missed: int
) -> None:
    found = slots.compared(made, ZONE, last.astimezone(UTC), True, now)
    assert (found["drift"], found["missed"]) == (drift, missed)
    assert found["last"] == {
        "local": last.isoformat(timespec="seconds"),
        "utc": last.astimezone(UTC).isoformat(timespec="seconds"),
    }


def test_an_entry_that_has_not_run() -> None:
    found = slots.compared(daily(), ZONE, at(0, 12), False, at(2, 2))
    assert found == {"last": None, "drift": None, "missed": 1}
    nothing = {"last": None, "drift": None, "missed": None}
    assert slots.compared(daily(), ZONE, None, False, at(2, 2)) == nothing


def runs(made: Any, *times: datetime) -> list[tuple[float | None, float | None, int]]:
    found = slots.sent_for(made, ZONE, [one.timestamp() for one in times])
    assert [datetime.fromisoformat(one["sent"]["utc"]) for one in found] == [
        time.replace(microsecond=0) for time in times
    ]
    return [
        (
            one["slot"] and hours([datetime.fromisoformat(one["slot"]["local"])])[0],
            one["drift"],
            one["missed"],
        )
        for one in found
    ]


def test_the_slots_of_runs() -> None:
    # The second run is late, the third one stands for three days.
    times = (at(0, 3), at(1, 3.5), at(4, 10))
    assert runs(daily(), *times) == [(3, 0, 0), (27, 1800, 0), (99, 25200, 2)]
    every = schedule(3600, app=app())
    times = (at(0, 3), at(0, 4), at(0, 7.5))
    assert runs(every, *times) == [(None, None, 0), (4, 0, 0), (7, 1800, 2)]


def test_runs_that_were_sent_one_by_one() -> None:
    second = timedelta(seconds=1)
    times = (at(0, 3), at(4, 10), at(4, 10) + second)
    assert runs(daily(), *times) == [(3, 0, 0), (75, 111600, 2), (99, 25201, 0)]


def test_the_history_of_an_entry_that_is_gone() -> None:
    sent = at(0, 3).timestamp()
    found = slots.history({"here": daily()}.__getitem__, ZONE, {"here": [sent], "gone": [sent]})
    assert (found["here"][0]["drift"], found["gone"][0]["drift"]) == (0, None)
    assert found["here"][0]["sent"] == found["gone"][0]["sent"]
