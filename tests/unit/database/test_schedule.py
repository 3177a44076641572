"""The schedule in a real database, with django_celery_beat itself."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project

pytestmark = pytest.mark.slow

MARKS = (
    "from django.db import connection; c = connection.cursor();"
    " c.execute('select name, entry from celery_fleet_schedule where name <> %s', ['']);"
    " print(sorted(c.fetchall()))"
)


def actions(answer: dict[str, Any]) -> dict[str, str]:
    assert answer["ok"], answer["error"]
    return {item["entry"]: item["action"] for item in answer["items"]}


def test_plans_and_dry_runs_write_nothing(project: Project) -> None:
    before = (project.directory / "db.sqlite3").read_bytes()
    planned = actions(project.ask("plan"))
    assert set(planned) == {"in the code", "Sync All Suppliers", "nightly"}
    assert actions(project.ask("sync", "--dry-run")) == planned
    assert len(project.ask("list")["entries"]) == 3
    assert (project.directory / "db.sqlite3").read_bytes() == before


def test_a_time_that_differs_in_each_process_is_named(project: Project) -> None:
    """A plan can't foretell such a time. If its text had the time, it would never equal the approved plan."""
    project.environment["SALTED"] = "1"

    def salted(answer: dict[str, Any]) -> tuple[list[str], list[str]]:
        (item,) = (one for one in answer["items"] if one["entry"] == "salted")
        return item["why"], [note for note in answer["notes"] if "salted" in note]

    why, (note,) = salted(project.ask("plan"))
    assert why == ["shop.clean, its schedule differs in each process"]
    assert note.startswith("schedule entry salted: the code gives it another schedule")
    assert "PYTHONHASHSEED" in note
    project.ask("sync")
    answer = project.ask("plan")
    assert [item["entry"] for item in answer["items"]] == ["salted"]
    assert salted(answer) == (["schedule differs in each process"], [note])
    # With the remedy, the process of the plan and that of the run agree.
    project.environment["PYTHONHASHSEED"] = "0"
    (why, notes) = salted(project.ask("plan"))
    assert (why[0].startswith("schedule every "), notes) == (True, [])
    project.ask("sync")
    assert project.ask("plan")["items"] == []


def test_declared_entries_are_printed_as_hashes(project: Project) -> None:
    """A second process prints it, for comparison; arguments may be secret."""
    answer = project.ask("declared")
    assert set(answer["declared"]) == {"in the code", "Sync All Suppliers", "nightly"}
    assert {len(one) for entry in answer["declared"].values() for one in entry.values()} == {64}


def test_declared_entries_are_written_once(project: Project) -> None:
    project.entries["quarter"] = {
        "task": "shop.clean",
        "interval": 900,
        "options": {"priority": 3, "expires": 60},
        "args": [1, "x"],
    }
    project.entries["off"] = {"task": "shop.clean", "interval": 0.5, "enabled": False}
    project.entries["in the code"] = {"enabled": False}
    names = {"Sync All Suppliers", "nightly", "quarter", "off"}
    assert actions(project.ask("sync")) == dict.fromkeys(names, "add")
    again = project.ask("sync")
    assert (actions(again), again["notes"]) == ({}, [])
    found = project.python(
        "t = of('Sync All Suppliers'); print(t.interval.every, t.interval.period, t.kwargs, t.enabled)\n"
        "t = of('nightly'); print(t.crontab, t.queue)\n"
        "t = of('quarter'); print(t.interval, t.args, t.priority, t.expire_seconds)\n"
        "t = of('off'); print(t.interval.every, t.interval.period, t.enabled)"
    )
    assert found.splitlines() == [
        '1 hours {"key": "s3cr3t"} True',
        "0 2 * * * (m/h/dM/MY/d) America/Guayaquil mail",
        'every 15 minutes [1, "x"] 3 60',
        "500000 microseconds False",
    ]


def test_rows_of_schedules_are_reused_and_never_changed(project: Project) -> None:
    project.python(
        "IntervalSchedule.objects.create(every=1, period='hours');"
        "IntervalSchedule.objects.create(every=1, period='hours');"
        "PeriodicTask.objects.create(name='mine', task='x', interval=IntervalSchedule.objects.last())"
    )
    project.ask("sync")
    project.entries["Sync All Suppliers"]["interval"] = 7200
    assert actions(project.ask("sync")) == {"Sync All Suppliers": "change"}
    assert project.python("print(list(IntervalSchedule.objects.values_list('every')))") == (
        "[(1,), (1,), (2,)]"
    )
    assert project.table()["mine"] == "<freq: 1.00 hour>"


def test_users_changes_are_kept_or_reset(project: Project) -> None:
    project.ask("sync")
    project.python(
        "t = of('nightly'); t.enabled = False; t.save()\n"
        "t = of('Sync All Suppliers');"
        "t.interval, _ = IntervalSchedule.objects.get_or_create(every=5, period='minutes'); t.save()\n"
        "of('in the code').delete()\n"
        "PeriodicTask.objects.create(name='mine', task='shop.sync', interval=t.interval)"
    )
    kept = project.ask("sync")
    assert actions(kept) == {}
    assert [text.split(" was ")[1].split(" by ")[0] for text in kept["notes"]] == [
        "deleted",
        "edited",
        "disabled",
    ]
    states = {entry["name"]: entry["state"] for entry in project.ask("list")["entries"]}
    assert states == {
        "nightly": "disabled",
        "Sync All Suppliers": "edited",
        "in the code": "deleted",
        "mine": "user's",
    }
    assert actions(project.ask("reset", "--name=nightly", "--dry-run")) == {"nightly": "change"}
    assert actions(project.ask("reset", "--name", "nightly")) == {"nightly": "change"}
    assert not project.ask("reset", "--name=mine")["ok"]
    project.edited = "reset"
    assert actions(project.ask("sync")) == {"in the code": "add", "Sync All Suppliers": "change"}
    assert actions(project.ask("sync")) == {}
    assert set(project.table()) == {"in the code", "nightly", "Sync All Suppliers", "mine"}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("replace", {"Sync All Suppliers", "nightly"}),
        ("refuse", {"in the code"}),
    ],
)
def test_the_policy_decides_which_entries_count(
    project: Project, policy: str, expected: set[str]
) -> None:
    project.policy = policy
    if policy == "refuse":
        project.entries = {}
    assert set(actions(project.ask("plan"))) == expected


def test_only_our_entry_is_removed_with_its_declaration(project: Project) -> None:
    project.python(
        "i = IntervalSchedule.objects.create(every=9, period='days');"
        "PeriodicTask.objects.create(name='nightly', task='shop.sync', interval=i)"
    )
    first = project.ask("sync")
    assert actions(first) == {"in the code": "add", "Sync All Suppliers": "add"}
    assert "nightly is not written: a user's entry has this name" in first["notes"][0]
    project.entries, project.policy = {}, "replace"
    assert actions(project.ask("sync")) == {"in the code": "remove", "Sync All Suppliers": "remove"}
    assert project.table() == {"nightly": "<freq: 9.00 days>"}
    assert project.python(MARKS) == "[]"


def test_a_change_reaches_a_running_beat_and_makes_nothing_due_at_once(project: Project) -> None:
    project.ask("sync")
    changed = "print(PeriodicTasks.last_change().isoformat())"
    before = project.python(changed)
    project.ask("sync")
    assert project.python(changed) == before
    project.python(
        "from django.utils import timezone;"
        "PeriodicTask.objects.update(last_run_at=timezone.now(), total_run_count=4)"
    )
    project.entries["nightly"]["crontab"] = {"minute": 30, "hour": 4}
    project.entries["Sync All Suppliers"]["args"] = [1]
    project.ask("sync")
    assert project.python(changed) > before
    # A new time has no last run; other changes leave it.
    assert (
        project.python(
            "print([(t.last_run_at is None, t.total_run_count) for t in (of('nightly'), of('Sync All Suppliers'))])"
        )
        == "[(True, 4), (False, 4)]"
    )


def test_all_of_our_entries_are_switched_and_none_of_users(project: Project) -> None:
    project.ask("sync")
    project.python(
        "PeriodicTask.objects.create(name='mine', task='x', interval=IntervalSchedule.objects.first())"
    )
    assert set(actions(project.ask("disable", "--dry-run"))) == {
        "in the code",
        "nightly",
        "Sync All Suppliers",
    }
    assert len(actions(project.ask("disable"))) == 3
    assert {name for name, time in project.table().items() if time.endswith(" off")} == {
        "in the code",
        "nightly",
        "Sync All Suppliers",
    }
    # It is kept like any other edit.
    assert actions(project.ask("sync")) == {}
    assert set(actions(project.ask("enable", "--name=nightly"))) == {"nightly"}
    assert len(actions(project.ask("enable"))) == 2
    assert actions(project.ask("sync")) == {}


def test_concurrent_runs_write_each_entry_once(project: Project) -> None:
    answers: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(project.ask("sync"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer["error"] for answer in answers] == [None] * 4
    assert sum(len(answer["items"]) for answer in answers) == 3
    assert len(project.table()) == 3


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"task": "shop.clean", "interval": 1e-9}, "can't hold an interval"),
        pytest.param(
            {"task": "shop.clean", "interval": 60, "options": {"compression": "gzip"}},
            "compression",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"task": "shop.clean", "interval": 60, "options": {"expires": 1.5}},
            "whole number",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"task": "shop.clean", "interval": 60, "queue": "q" * 201},
            "its queue has 201 characters",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_the_database_cannot_hold_is_refused(
    project: Project, entry: dict[str, Any], words: str
) -> None:
    project.entries["odd one"] = entry
    answer = project.ask("sync")
    assert not answer["ok"]
    assert "schedule entry odd one: " in answer["error"]
    assert words in answer["error"]
    assert project.table() == {}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"APPS": "django.contrib.contenttypes"}, "django_celery_beat is not in INSTALLED_APPS"),
        ({"DATABASE_URL": "sqlite:////nowhere/db"}, "unable to open database file"),
        (
            {"DATABASE_URL": "sqlite://:memory:"},
            "no table django_celery_beat_periodictask: migrate it",
        ),
        ({"CELERY_APP": "nothing"}, "application nothing can't be loaded"),
    ],
)
def test_a_database_that_can_not_be_asked_is_reported(
    project: Project, environment: dict[str, str], words: str
) -> None:
    project.environment.update(environment)
    answer = project.ask("plan")
    assert not answer["ok"]
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ""),
        ({"APPS": "django.contrib.contenttypes"}, "django_celery_beat is not in INSTALLED_APPS"),
    ],
)
def test_the_check_of_a_release_reports_whether_it_can_use_the_database(
    project: Project, environment: dict[str, str], words: str
) -> None:
    project.environment.update(environment)
    done = project.start("-m", "celery_fleet.release.check", stdin=json.dumps({"app": "shop"}))
    report = json.loads(done.stdout)
    assert report["ok"], report["errors"]
    assert report["application"]["no_database"].startswith(words)
    assert bool(report["application"]["no_database"]) == bool(words)


def test_due_times_follow_the_schedules(project: Project) -> None:
    project.ask("sync")
    project.python(
        "from datetime import datetime, timezone as z\n"
        "c = CrontabSchedule.objects.create(minute=0, hour=12, timezone='Europe/Berlin')\n"
        "PeriodicTask.objects.create(name='noon', task='shop.gone', crontab=c)\n"
        "k = ClockedSchedule.objects.create(clocked_time=datetime(2099, 1, 2, 3, tzinfo=z.utc))\n"
        "PeriodicTask.objects.create(name='once', task='shop.sync', clocked=k, one_off=True)\n"
        "PeriodicTask.objects.create(name='off', task='shop.sync', crontab=c, enabled=False)\n"
        "PeriodicTask.objects.create(name='later', task='shop.sync', crontab=c,"
        " start_time=datetime(2098, 7, 1, tzinfo=z.utc))"
    )
    found = {entry["name"]: entry for entry in project.ask("list", "--count", "2")["entries"]}
    utc = {name: [due["utc"] for due in entry["due"]] for name, entry in found.items()}
    assert [moment[11:] for moment in utc["nightly"]] == ["07:00:00+00:00"] * 2
    assert utc["noon"][0][11:] in ("11:00:00+00:00", "10:00:00+00:00")
    assert utc["once"] == ["2099-01-02T03:00:00+00:00"]
    assert utc["off"] == []
    assert utc["later"][0] == "2098-07-01T10:00:00+00:00"
    assert found["later"]["due"][0]["local"] == "2098-07-01T05:00:00-05:00"
    assert found["noon"]["error"] == "the release has no task shop.gone"
    assert found["Sync All Suppliers"]["error"] is None


def test_the_settings_of_the_process_are_used_if_none_are_given(project: Project) -> None:
    path = project.directory / "settings.json"
    path.write_text(json.dumps(project.document))
    environment = {"CELERY_FLEET_SETTINGS": str(path), "CELERY_FLEET_COMPONENT": "beat"}
    done: subprocess.CompletedProcess[str] = project.start(
        "-m", "celery_fleet.beat.database.program", "plan", environment=environment
    )
    assert len(json.loads(done.stdout)["items"]) == 3, done.stderr


def test_the_list_says_what_entries_have_done(project: Project) -> None:
    project.ask("sync")
    project.python(
        "import datetime as d\n"
        "last = d.datetime.now(d.UTC).replace(hour=7, minute=0, second=3, microsecond=0) - d.timedelta(days=3)\n"
        "PeriodicTask.objects.filter(name='nightly').update(last_run_at=last, total_run_count=7)"
    )
    times = [1_774_749_600 + 86_400 * day for day in (0, 1, 4)]
    answer = project.ask("list", "--fired", json.dumps({"nightly": times, "gone": times[:1]}))
    entries = {entry["name"]: entry for entry in answer["entries"]}
    nightly = entries["nightly"]
    assert (nightly["runs"], nightly["drift"], nightly["missed"] in (2, 3)) == (7, 3, True)
    new = entries["Sync All Suppliers"]
    assert (new["last"], new["drift"], new["missed"]) == (None, None, 0)
    assert [run["missed"] for run in answer["history"]["nightly"]] == [0, 0, 2]
    assert [run["missed"] for run in answer["history"]["gone"]] == [None]


def test_an_entry_of_the_database_is_sent_by_hand(project: Project, tmp_path: Path) -> None:
    project.ask("sync")
    project.python("PeriodicTask.objects.filter(name='nightly').update(enabled=False)")
    before = project.python("print(of('nightly').last_run_at, of('nightly').total_run_count)")
    settings = project.document
    settings["celery"].update(
        broker_url="filesystem://",
        result_backend="disabled://",
        broker_transport_options={
            "data_folder_in": str(tmp_path),
            "data_folder_out": str(tmp_path),
            "control_folder": str(tmp_path / "control"),
        },
    )
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    environment = {
        "CELERY_FLEET_COMPONENT": "beat",
        "CELERY_FLEET_SETTINGS": str(tmp_path / "settings.json"),
    }

    def run(name: str) -> dict[str, Any]:
        request = json.dumps({"do": "entry", "id": "7-7", "entry": name, "consumed": ["mail"]})
        done = project.start("-m", "celery_fleet.ops.tasks", stdin=request, environment=environment)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    sent = run("nightly")
    assert sent["ok"], sent
    assert (sent["answer"]["queue"], sent["answer"]["id"]) == ("mail", "7-7")
    (message,) = tmp_path.glob("*.mail.msg")
    assert sent["answer"]["id"] in message.read_text()
    assert "it has Sync All Suppliers, in the code, nightly" in run("nosuch")["error"]
    after = project.python("print(of('nightly').last_run_at, of('nightly').total_run_count)")
    assert after == before
