"""When entries are due: compared with times typed by hand, in time zones with daylight saving time."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab, schedule

from celery_fleet.beat import due
from tests import fleet
from tests.unit.cli import host


def app_in(zone: str) -> Any:
    return Celery("x", set_as_current=False, timezone=zone, enable_utc=True, fixups=[])


def local(found: list[dict[str, str]]) -> list[str]:
    return [moment["local"] for moment in found]


@pytest.mark.parametrize(
    ("zone", "fields", "start", "expected"),
    [
        # A pipeline on working days: its last hour on a Saturday, and Monday's first.
        (
            "America/Guayaquil",
            {"minute": 0, "hour": "8-19", "day_of_week": "1-6"},
            "2026-11-21T18:30:00-05:00",
            ["2026-11-21T19:00:00-05:00", "2026-11-23T08:00:00-05:00"],
        ),
        (
            "America/Guayaquil",
            {"minute": 0, "hour": 0},
            "2026-11-21T23:59:59-05:00",
            ["2026-11-22T00:00:00-05:00", "2026-11-23T00:00:00-05:00"],
        ),
        # Exactly when an entry is due, its next time is the following one.
        (
            "UTC",
            {"minute": "*/15"},
            "2026-11-21T10:15:00+00:00",
            ["2026-11-21T10:30:00+00:00", "2026-11-21T10:45:00+00:00"],
        ),
        # An hour that does not exist, and one that occurs twice.
        (
            "Europe/Berlin",
            {"minute": 0, "hour": 12},
            "2026-03-28T13:00:00+01:00",
            ["2026-03-29T12:00:00+02:00", "2026-03-30T12:00:00+02:00"],
        ),
        (
            "Europe/Berlin",
            {"minute": 0, "hour": 12},
            "2026-10-24T13:00:00+02:00",
            ["2026-10-25T12:00:00+01:00", "2026-10-26T12:00:00+01:00"],
        ),
        (
            "Asia/Kathmandu",
            {"minute": 0, "hour": 10, "day_of_month": 29, "month_of_year": 2},
            "2026-01-01T00:00:00+05:45",
            ["2028-02-29T10:00:00+05:45", "2032-02-29T10:00:00+05:45"],
        ),
    ],
)
def test_due_times_of_crontabs(
    zone: str, fields: dict[str, Any], start: str, expected: list[str]
) -> None:
    moment = datetime.fromisoformat(start).astimezone(ZoneInfo(zone))
    found = due.upcoming(crontab(**fields, app=app_in(zone)), moment, 2)
    assert local(found) == expected
    for one in found:
        assert datetime.fromisoformat(one["utc"]) == datetime.fromisoformat(one["local"])
        assert one["utc"].endswith("+00:00")


def test_an_interval_counts_from_the_last_run_that_beat_reports() -> None:
    start = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
    every = schedule(run_every=30, app=app_in("UTC"))
    assert local(due.upcoming(every, start, 2, start + timedelta(seconds=7))) == [
        "2026-11-21T10:00:07+00:00",
        "2026-11-21T10:00:37+00:00",
    ]
    # Without a running beat it counts as if beat started now, also if the time that beat named is long past.
    for first in (None, start - timedelta(seconds=7)):
        assert local(due.upcoming(every, start, 1, first)) == ["2026-11-21T10:00:30+00:00"]


def test_beats_file_may_be_missing_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    assert due.due_times(None) == due.due_times(str(path)) == {}
    path.write_text('{"entries": [{"name": "a"')
    assert due.due_times(str(path)) == {}
    path.write_text('{"entries": [{"name": "a", "due": "2026-11-21T10:00:07Z"}]}')
    assert due.due_times(str(path)) == {"a": datetime(2026, 11, 21, 10, 0, 7, tzinfo=UTC)}


APPLICATION = """
from celery import Celery
from celery.schedules import crontab, schedule
class Odd(schedule):
    def remaining_estimate(self, last_run_at):
        raise ValueError("nobody knows")
print("the application prints")
app = Celery("shop", broker="redis://nobody:hush-hush@127.0.0.1:1")
app.conf.timezone = "America/Guayaquil"
app.conf.beat_schedule = {
    "ours": {"task": "shop.ours", "schedule": crontab(minute=0, hour=10)},
    "replaced": {"task": "shop.old", "schedule": 10.0},
    "impossible": {"task": "shop.never", "schedule": Odd(10)},
}
@app.on_after_finalize.connect
def more(sender, **_):
    sender.add_periodic_task(60.0, add.s(1, 2), name="added in code")
@app.task
def add(a, b): return a + b
"""


def ask(tmp_path: Path, module: str = "shop", *argv: str) -> subprocess.CompletedProcess[str]:
    settings = host.settings("beat")
    settings["celery"]["beat_schedule"] = {
        "replaced": {"task": "shop.new", "interval": 20, "queue": "mail"}
    }
    settings["celery"]["result_backend"] = "disabled://"
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    return subprocess.run(
        [sys.executable, "-m", "celery_fleet.beat.due", *argv],
        cwd=tmp_path,
        env=fleet.environment("beat", tmp_path / "settings.json", app=module),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_entries_are_those_of_beat(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    done = ask(tmp_path, "shop", "--count", "2")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert (answer["ok"], answer["timezone"]) == (True, "America/Guayaquil")
    entries = {entry["name"]: entry for entry in answer["entries"]}
    assert set(entries) == {"ours", "replaced", "impossible", "added in code"}
    # The inventory's entry replaces the application's of the same name.
    replaced = entries["replaced"]
    assert (replaced["task"], replaced["queue"], replaced["schedule"]) == (
        "shop.new",
        "mail",
        "every 20 s",
    )
    assert entries["ours"]["schedule"] == "crontab 0 10 * * *"
    for moment in entries["ours"]["due"]:
        assert moment["local"][11:] == "10:00:00-05:00"
        assert moment["utc"][11:] == "15:00:00+00:00"
    assert entries["impossible"]["due"] == []
    assert entries["impossible"]["error"] == "ValueError: nobody knows"
    # They are sorted by due time; an entry that is never due is last.
    assert [entry["name"] for entry in answer["entries"]][-1] == "impossible"


def test_an_application_that_can_not_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("raise RuntimeError('redis://a:hush-hush@h/0')")
    done = ask(tmp_path)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"]) == (1, False)
    assert answer["error"].startswith("application shop can't be loaded: RuntimeError: ")
    assert "hush" not in done.stdout
    assert "no_such" in json.loads(ask(tmp_path, "no_such").stdout)["error"]


def test_a_file_that_an_application_lacks_is_not_blamed_on_the_broker(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("open('/no/such/file')")
    answer = json.loads(ask(tmp_path).stdout)
    assert answer["error"].startswith("application shop can't be loaded: FileNotFoundError: ")
