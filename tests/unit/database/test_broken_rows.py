"""Rows that beat can't use: each is dropped and reported, and the others are sent."""

from __future__ import annotations

import json

import pytest

from .conftest import Project

#: Makes a row that beat can use and, beside it, rows that it can't.
ROWS = """
from django.db import connection

def row(name, **what):
    PeriodicTask.objects.create(name=name, task="shop.sync", **what)

often = IntervalSchedule.objects.create(every=1, period="hours")
row("good", interval=often)
row("headers", interval=often, headers="[1]")
row("no headers", interval=often, headers="[]")
row("no JSON", interval=often, headers="{")
row("interval", interval=IntervalSchedule.objects.create(every=2**31 - 1, period="days"))
row("solar", solar=SolarSchedule.objects.create(event="sunset", latitude=50, longitude=8))
row("date", crontab=CrontabSchedule.objects.create(day_of_month=31, month_of_year=2))
zone = CrontabSchedule.objects.create(hour=3)
row("zone", crontab=zone)
connection.cursor().execute(
    f"UPDATE django_celery_beat_crontabschedule SET timezone = 'US/Nowhere' WHERE id = {zone.pk}"
)
"""

#: Prepares a beat, and collects what it logs as errors.
BEAT = """
import logging
from types import SimpleNamespace
from celery_fleet.beat.database import scheduler as database
from celery_fleet.supervision.notify import Notifier
from django_celery_beat.schedulers import DatabaseScheduler
from shop.celery import app

class Errors(logging.Handler):
    said = []
    def emit(self, record):
        self.said.append(record.getMessage())

logging.getLogger("celery_fleet.beat").addHandler(Errors(logging.ERROR))
app.conf.update(beat_schedule={}, result_expires=None)
database.prepare(app, Notifier(None))
scheduler = DatabaseScheduler(app=app)
database.guard(SimpleNamespace(scheduler=scheduler), lambda trouble: None)
"""

#: What is said of each row.
REASONS = {
    "headers": "its headers are not a JSON object",
    "no headers": "its headers are not a JSON object",
    "no JSON": "its headers are not a JSON object",
    "interval": "must have magnitude <= 999999999",
    "solar": "install the ephem library",
    "date": "",
    "zone": "this host does not know the time zone US/Nowhere",
}


def test_a_row_that_cannot_be_used_is_dropped_and_logged_once(project: Project) -> None:
    said = project.python(
        f"{ROWS}{BEAT}"
        "import json\n"
        "print(json.dumps([*scheduler.schedule]))\n"
        "scheduler.tick()\n"
        "scheduler.all_as_schedule()\n"
        "print(json.dumps(Errors.said))\n"
        "PeriodicTask.objects.filter(name='headers').update(headers='{}')\n"
        "PeriodicTask.objects.filter(name='no headers').update(headers='{')\n"
        "print(json.dumps([*scheduler.all_as_schedule()]))\n"
        "PeriodicTask.objects.filter(name='headers').update(headers='[1]')\n"
        "scheduler.all_as_schedule()\n"
        f"print(json.dumps(Errors.said[{len(REASONS)}:]))"
    )
    held, errors, later, more = map(json.loads, said.splitlines()[-4:])
    assert held == ["good"]
    assert len(errors) == len(REASONS)
    for name, reason in REASONS.items():
        begin = f"the entry {name} can't be used and is dropped: "
        (line,) = [one for one in errors if one.startswith(begin)]
        assert reason in line
        assert line.endswith("; correct it or delete it")
    assert set(later) == {"good", "headers"}
    # It was all right in between.
    assert [line.split(" can't")[0] for line in more] == ["the entry headers"]


def test_the_list_and_the_plan_know_rows_that_cannot_be_used(project: Project) -> None:
    project.python(ROWS)
    times = {name: [1_774_749_600] for name in ("good", *REASONS)}
    found = project.ask("list", "--fired", json.dumps(times))
    entries = {entry["name"]: entry for entry in found["entries"] if entry["name"] in times}
    assert entries["good"]["error"] is None
    for name, reason in REASONS.items():
        assert reason in entries[name]["error"]
        assert entries[name]["due"] == []
    assert {name: len(runs) for name, runs in found["history"].items()} == dict.fromkeys(times, 1)
    assert project.ask("plan")["ok"]


@pytest.mark.slow
def test_an_error_of_the_database_drops_no_row(project: Project) -> None:
    """Beat goes on with what it knows, until the database answers again."""
    said = project.python(
        f"{ROWS}{BEAT}"
        "from django.db.utils import OperationalError\n"
        "def fail(row):\n"
        "    raise OperationalError('gone')\n"
        "PeriodicTask.schedule = property(fail)\n"
        "try:\n"
        "    scheduler.all_as_schedule()\n"
        "except OperationalError:\n"
        "    print('raised')"
    )
    assert said.splitlines()[-1] == "raised"
