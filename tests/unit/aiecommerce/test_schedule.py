"""The documented schedule: due times at moments typed by hand, computed by beat's own code."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.unit.aiecommerce.conftest import Run

ZONE = ZoneInfo("America/Guayaquil")

# Entries as beat keeps them; `is_due` uses the schedule, whose clock is set to the moment.
READ = """
import json, sys
from datetime import datetime, timedelta
from celery.beat import Scheduler
from celery.app.utils import find_app
app = find_app("aiecommerce")
scheduler = Scheduler(app, lazy=True)
scheduler.setup_schedule()
entries = {entry.task: entry for entry in scheduler.schedule.values()}

def at(entry, moment):
    entry.schedule.nowfun = lambda: moment
    return entry.schedule

def following(entry, moment):
    due = moment + at(entry, moment).remaining_estimate(moment)
    return due.astimezone(app.timezone).isoformat()

def fired(entry, begin, days):
    # As beat does it, with a clock that jumps: sleep until the next is due, look, send, remember when.
    moment, last, times = begin, begin, []
    while True:
        is_due, wait = at(entry, moment).is_due(last)
        if is_due:
            times.append(moment.astimezone(app.timezone).isoformat())
            last = moment
        moment += timedelta(seconds=wait)
        if moment >= begin + timedelta(days=days):
            return times

moments, begin = json.load(sys.stdin)
moments = [datetime.fromisoformat(moment) for moment in moments]
print(json.dumps({
    "names": {entry.name: [entry.task, entry.args or [], entry.kwargs or {}, entry.options or {}]
              for entry in scheduler.schedule.values()},
    "zone": str(app.timezone),
    "following": {m.isoformat(): {task: following(e, m) for task, e in entries.items()} for m in moments},
    "week": {task: fired(entry, datetime.fromisoformat(begin), 7) for task, entry in entries.items()},
}))
"""

PIPELINE = {
    "run_scrape_tecnomega": 0,
    "run_normalize_products": 10,
    "run_enrich_products": 15,
    "run_ml_eligibility_update": 20,
    "run_image_fetcher": 25,
}
DAILY = {"run_sync_price_list": 10, "run_prune_scrapes": 0}

# In Guayaquil, where it is five hours before UTC all year round; 2026-11-16 is a Monday.
# (moment, when the scrape is due next, the images, the price list, the pruning)
TABLE = [
    # The first hour.
    ("Mon 07:59:59", "Mon 08:00", "Mon 08:25", "Mon 10:00", "Tue 00:00"),
    ("Mon 08:00:00", "Mon 09:00", "Mon 08:25", "Mon 10:00", "Tue 00:00"),
    ("Mon 08:00:01", "Mon 09:00", "Mon 08:25", "Mon 10:00", "Tue 00:00"),
    # Hours in between.
    ("Mon 09:59:59", "Mon 10:00", "Mon 10:25", "Mon 10:00", "Tue 00:00"),
    ("Mon 10:00:30", "Mon 11:00", "Mon 10:25", "Tue 10:00", "Tue 00:00"),
    # The last hour.
    ("Mon 18:59:59", "Mon 19:00", "Mon 19:25", "Tue 10:00", "Tue 00:00"),
    ("Mon 19:00:01", "Tue 08:00", "Mon 19:25", "Tue 10:00", "Tue 00:00"),
    ("Mon 19:25:01", "Tue 08:00", "Tue 08:25", "Tue 10:00", "Tue 00:00"),
    # Midnight; in UTC it is five in the morning.
    ("Mon 23:59:59", "Tue 08:00", "Tue 08:25", "Tue 10:00", "Tue 00:00"),
    ("Tue 00:00:01", "Tue 08:00", "Tue 08:25", "Tue 10:00", "Wed 00:00"),
    # Saturday evening, Sunday, and the night to Monday.
    ("Sat 18:30:00", "Sat 19:00", "Sat 19:25", "Sun 10:00", "Sun 00:00"),
    ("Sat 19:30:00", "Mon+ 08:00", "Mon+ 08:25", "Sun 10:00", "Sun 00:00"),
    ("Sat 21:00:00", "Mon+ 08:00", "Mon+ 08:25", "Sun 10:00", "Sun 00:00"),
    ("Sun 08:00:00", "Mon+ 08:00", "Mon+ 08:25", "Sun 10:00", "Mon+ 00:00"),
    ("Sun 12:00:00", "Mon+ 08:00", "Mon+ 08:25", "Mon+ 10:00", "Mon+ 00:00"),
    ("Mon+ 00:00:01", "Mon+ 08:00", "Mon+ 08:25", "Mon+ 10:00", "Tue+ 00:00"),
]
NAMES = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Mon+", "Tue+"]
DAYS = {name: day for day, name in enumerate(NAMES, 16)}


def moment(text: str) -> datetime:
    """Return a text such as `Sat 19:30:00` as a time in Guayaquil."""
    day, clock = text.split()
    return datetime.fromisoformat(f"2026-11-{DAYS[day]}T{clock}").replace(tzinfo=ZONE)


@pytest.fixture(scope="module")
def beat(run: Run) -> dict[str, Any]:
    moments = [moment(line[0]).isoformat() for line in TABLE]
    question = json.dumps([moments, moment("Mon 00:00:30").isoformat()])
    done = run("-c", READ, stdin=question, SECRET_KEY="not-a-real-key")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_there_are_seven_entries_and_nothing_but_their_tasks(beat: dict[str, Any]) -> None:
    # Celery's own entry for cleaning up results is only added by backends that need it; Redis does not.
    assert beat["names"] == {
        task.replace("_", "-"): [task, [], {}, {}] for task in [*PIPELINE, *DAILY]
    }
    assert beat["zone"] == "America/Guayaquil"


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line[0])
def test_entries_are_due_at_the_documented_times(
    beat: dict[str, Any], line: tuple[str, str, str, str, str]
) -> None:
    now, *expected = line
    tasks = (
        "run_scrape_tecnomega",
        "run_image_fetcher",
        "run_sync_price_list",
        "run_prune_scrapes",
    )
    found = beat["following"][moment(now).isoformat()]
    assert {task: found[task] for task in tasks} == {
        task: moment(text).isoformat() for task, text in zip(tasks, expected, strict=True)
    }


@pytest.mark.parametrize("task", PIPELINE)
def test_the_pipeline_runs_twelve_times_a_day_except_on_sundays(
    beat: dict[str, Any], task: str
) -> None:
    """This is 72 times a week."""
    days = [moment(f"{day} 00:00:00") for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat")]
    expected = [
        day + timedelta(hours=hour, minutes=PIPELINE[task]) for day in days for hour in range(8, 20)
    ]
    assert _times(beat["week"][task]) == expected


@pytest.mark.parametrize("task", DAILY)
def test_daily_entries_run_once_a_day(beat: dict[str, Any], task: str) -> None:
    """This includes Sunday. The week begins half a minute after a midnight."""
    first = moment("Mon 10:00:00") if DAILY[task] else moment("Tue 00:00:00")
    assert _times(beat["week"][task]) == [first + timedelta(days=n) for n in range(7)]


def _times(texts: list[str]) -> list[datetime]:
    return [datetime.fromisoformat(text).astimezone(ZONE) for text in texts]
