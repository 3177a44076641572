"""A real beat with django_celery_beat's scheduler, whose database comes and goes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fleet import wait_for

from .conftest import HERE, Project

BEAT = """
import sys
from celery import signals
def quicker(**_):
    from celery_fleet.beat.database import scheduler as database_beat
    from django_celery_beat import schedulers
    schedulers.SCHEDULE_SYNC_MAX_INTERVAL = 3
    database_beat.AGAIN = 2.0
signals.beat_init.connect(quicker)
import celery.__main__
sys.argv = ["celery", "-A", "shop", "beat", "--loglevel=INFO", "--max-interval=1", "--pidfile="]
celery.__main__.main()
"""


class Beat:
    def __init__(self, project: Project, directory: Path) -> None:
        self.directory = directory
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # An abstract socket, because the name of a file would be too long.
        address = f"fleet-test-{os.getpid()}-{id(self)}"
        self.manager.bind(f"\0{address}")
        self.manager.settimeout(0.1)
        document = project.document
        document["celery"]["broker_url"] = "filesystem://"
        document["celery"]["broker_transport_options"] = {
            "data_folder_in": str(directory),
            "data_folder_out": str(directory),
        }
        document["metrics"] = {"file": str(directory / "beat.json")}
        # Beat's own file has no entries. If it had some, its scheduler must not get them.
        (directory / "settings.json").write_text(json.dumps(document))
        self.log = directory / "beat.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BEAT],
                cwd=HERE / "project",
                env={
                    **project.variables,
                    "CELERY_FLEET_COMPONENT": "beat",
                    "CELERY_FLEET_SETTINGS": str(directory / "settings.json"),
                    "NOTIFY_SOCKET": f"@{address}",
                    "RUNTIME_DIRECTORY": str(directory),
                    "PYTHONUNBUFFERED": "1",
                },
                stdout=log,
                stderr=log,
            )

    def says(self, words: str, seconds: float = 90) -> str:
        """Wait until beat has logged these words."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                said = self.manager.recv(4096).decode()
            except TimeoutError:
                continue
            if words in said:
                return said
        raise AssertionError(f"never said {words!r}:\n{self.log.read_text()}")

    @property
    def held(self) -> dict[str, str]:
        entries = json.loads((self.directory / "schedule.json").read_text())["entries"]
        return {entry["name"]: entry["source"] for entry in entries}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "beat"
    made.mkdir()
    return made


@pytest.fixture
def beat(project: Project, directory: Path) -> Iterator[Beat]:
    project.entries = {"often": {"task": "shop.sync", "interval": 1}}
    project.policy = "replace"
    project.ask("sync")
    started = Beat(project, directory)
    yield started
    started.process.kill()
    started.process.wait()
    started.manager.close()


def sent(beat: Beat) -> int:
    return beat.log.read_text().count("Sending due task often")


@pytest.mark.slow
def test_beat_counts_the_entries_of_the_database(beat: Beat) -> None:
    path = beat.directory / "beat.json"
    beat.says("READY=1")

    def counts() -> dict[str, int]:
        entries: dict[str, dict[str, int]] = json.loads(path.read_text())["entries"]
        return entries["often"]

    wait_for(lambda: path.exists() and counts()["sent"] >= 2)
    found = counts()
    assert found == {
        "sent": found["sent"],
        "failed": 0,
        "late": 0,
        "collapsed": 0,
        "skipped": 0,
    }


@pytest.mark.slow
def test_beat_sends_entries_of_the_database_and_writes_none(project: Project, beat: Beat) -> None:
    beat.says("READY=1")
    beat.says("STATUS=1 entry, next often")
    assert beat.held == {"often": "database"}
    # There is neither the code's entry nor Celery's own clean-up.
    assert list(project.table()) == ["often"]
    project.python("t = of('often'); t.enabled = False; t.save()")
    project.python(
        "i = IntervalSchedule.objects.create(every=1, period='hours');"
        "PeriodicTask.objects.create(name='mine', task='shop.sync', interval=i)"
    )
    beat.says("STATUS=1 entry, next mine")
    beat.process.terminate()
    assert beat.process.wait(20) == 0
    assert project.table()["often"].endswith(" off")


@pytest.mark.slow
def test_missed_runs_are_skipped_or_sent_one_by_one(project: Project, directory: Path) -> None:
    project.entries = {
        name: {"task": "shop.sync", "interval": 3600} for name in ("once", "each", "skip")
    }
    project.policy = "replace"
    project.missed = {"each": {"missed": "each", "missed_limit": 3}, "skip": {"missed": "skip"}}
    project.ask("sync")
    # The fifth run is due in half an hour.
    last = project.python(
        "import datetime as d\n"
        "last = d.datetime.now(d.UTC) - d.timedelta(hours=4.5)\n"
        "PeriodicTask.objects.update(last_run_at=last)\n"
        "print(last.isoformat())"
    )
    beat = Beat(project, directory)
    try:
        path = directory / "beat.json"
        wait_for(lambda: path.exists() and '"each": {"sent": 3' in path.read_text())
        # The whole schedule is read again every 3 s in these tests.
        time.sleep(5)
        counted = json.loads(path.read_text())["entries"]
        log = beat.log.read_text()
    finally:
        beat.process.terminate()
        assert beat.process.wait(20) == 0
        beat.manager.close()
    assert {name: log.count(f"Sending due task {name} ") for name in project.entries} == {
        "once": 1,
        "each": 3,
        "skip": 0,
    }
    assert (counted["each"]["late"], counted["skip"]["skipped"]) == (3, 4)
    code = (
        "import datetime as d\n"
        f"last = d.datetime.fromisoformat({last!r})\n"
        "print(*(of(name).last_run_at - last for name in ('each', 'skip')))"
    )
    assert project.python(code) == "4:00:00 4:00:00"


@pytest.mark.slow
def test_beat_also_reports_entries_that_are_due_much_later(project: Project, beat: Beat) -> None:
    """The final table of a run shows what beat has loaded, and half a schedule looks like a loss."""
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    project.python(
        f"c = CrontabSchedule.objects.create(minute=0, hour={hour});"
        "PeriodicTask.objects.create(name='later', task='shop.sync', crontab=c)"
    )
    beat.says("STATUS=2 entries")
    assert set(beat.held) == {"often", "later"}


@pytest.mark.slow
def test_without_its_database_beat_sends_known_entries(project: Project, beat: Beat) -> None:
    beat.says("STATUS=1 entry, next often")
    database = project.directory / "db.sqlite3"
    away = project.directory / "away"
    # A directory can't be opened as a database, nor be created again by mistake.
    shutil.move(database, away)
    database.mkdir()
    beat.says("waiting for the schedule's database, which gives errors; 1 entry, next often")
    # It reads the whole table again at that time, which django_celery_beat's own scheduler does not survive.
    beat.says("waiting for the schedule's database: unable to open database file")
    before = sent(beat)
    wait_for(lambda: sent(beat) > before)
    database.rmdir()
    shutil.move(away, database)
    beat.says("STATUS=1 entry, next often")
    beat.process.terminate()
    assert beat.process.wait(20) == 0
    # Beat also knows what it sent while the database was away.
    assert int(project.python("print(of('often').total_run_count)")) == sent(beat)


@pytest.mark.slow
def test_a_start_waits_for_the_database(project: Project, directory: Path) -> None:
    database = project.directory / "db.sqlite3"
    away = project.directory / "away"
    shutil.move(database, away)
    database.mkdir()
    beat = Beat(project, directory)
    try:
        said = beat.says("STATUS=waiting for the schedule's database: ")
        assert "unable to open database file" in said
        database.rmdir()
        shutil.move(away, database)
        beat.says("READY=1")
    finally:
        beat.process.kill()
        beat.process.wait()
        beat.manager.close()


@pytest.mark.slow
def test_an_application_without_the_package_is_refused_by_beat(
    project: Project, directory: Path
) -> None:
    project.environment["APPS"] = "django.contrib.contenttypes"
    beat = Beat(project, directory)
    try:
        assert beat.process.wait(90) == 78
        assert "celery_beat_scheduler is database, but django_celery_beat is not in" in (
            beat.log.read_text()
        )
    finally:
        beat.process.kill()
        beat.manager.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("meanwhile", "left"),
    [
        ("rows.update(queue='other')", "other 1"),
        # If beat saved the whole row, it would be there again, without a mark.
        ("rows.delete()", "gone"),
    ],
)
def test_beat_only_writes_its_own_fields(project: Project, meanwhile: str, left: str) -> None:
    """Another process writes or edits a row between django_celery_beat's reading and writing."""
    project.entries = {"often": {"task": "shop.sync", "interval": 1}}
    project.policy = "replace"
    project.ask("sync")
    said = project.python(
        "from types import SimpleNamespace\n"
        "from celery import Celery\n"
        "from django.db import connection\n"
        "from django_celery_beat.schedulers import DatabaseScheduler\n"
        "from celery_fleet.beat.database import scheduler as database_beat\n"
        "rows = PeriodicTask.objects.filter(name='often')\n"
        "scheduler = DatabaseScheduler(app=Celery(set_as_current=False))\n"
        "database_beat.guard(SimpleNamespace(scheduler=scheduler), lambda trouble: None)\n"
        "scheduler.reserve(scheduler.schedule['often'])\n"
        "done = []\n"
        "def between(execute, sql, *rest):\n"
        "    if sql.startswith('UPDATE') and not done:\n"
        "        done.append(sql)\n"
        f"        {meanwhile}\n"
        "    return execute(sql, *rest)\n"
        "with connection.execute_wrapper(between):\n"
        "    scheduler.sync()\n"
        "assert done\n"
        "row = rows.first()\n"
        "print(f'{row.queue} {row.total_run_count}' if row else 'gone')"
    )
    assert said.splitlines()[-1] == left
