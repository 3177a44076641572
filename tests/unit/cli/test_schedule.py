"""``celery-fleet schedule`` if the schedule is in the application's database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celery_fleet.cli import application, ask, schedules
from celery_fleet.cli import confirm as confirming
from celery_fleet.cli.main import cli
from celery_fleet.health.in_release import last_line
from tests.unit.cli import host
from tests.unit.database.conftest import Project, migrated, project

__all__ = ("migrated", "project")

Call = Callable[..., Result]
NAMES = ["Sync All Suppliers", "in the code", "nightly"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "host"
    directory = host.install(root, queues=["celery", "mail"])
    document = host.settings("beat") | {"beat_scheduler": "database"}
    (directory / "credentials" / "beat.json").write_text(json.dumps(document))
    (directory / "credentials" / "schedule.json").write_text("{}")
    monkeypatch.setattr(application, "CONFIGURATION", root / "etc")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return root


@pytest.fixture
def call(place: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that calls the command, with the project's Python in place of systemd's unit."""

    def in_release(where: object, component: str, command: list[str], timeout: float) -> Any:
        assert (component, command[:1], timeout) == ("schedule", ["python"], schedules.IMPORT)
        done: subprocess.CompletedProcess[str] = project.start(
            *command[1:3], "--settings", *command[3:], stdin=json.dumps(project.document)
        )
        return last_line(done, command[-1])

    monkeypatch.setattr(ask, "in_release", in_release)

    def called(*argv: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["celery-fleet", *argv])
        done = CliRunner().invoke(cli, argv, prog_name="celery-fleet")
        unexpected = done.exception
        assert unexpected is None or isinstance(unexpected, SystemExit), repr(unexpected)
        assert "s3cr3t" not in done.output
        return done

    return called


@pytest.mark.slow
def test_a_late_answer_points_to_the_database(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> Any:
        raise ask.LateError("no answer within 30 s")

    monkeypatch.setattr(ask, "in_release", late)
    done = call("schedule")
    assert (done.exit_code, done.stderr) == (
        3,
        "celery-fleet: no answer within 30 s; the database may not answer: celery-fleet health --now\n",
    )


@pytest.mark.slow
def test_the_life_of_a_schedule(call: Call, project: Project) -> None:
    done = call("schedule", "sync", "--dry-run")
    assert done.exit_code == 0
    assert "Synchronised, not done yet" in done.stdout
    assert project.table() == {}
    done = call("schedule", "sync", "--format", "json")
    found = json.loads(done.stdout)
    assert (found["dry_run"], sorted(item["entry"] for item in found["items"])) == (False, NAMES)
    assert call("schedule", "sync").stdout == "Nothing to do.\n"

    done = call("schedule", "disable-all")
    assert (done.exit_code, "add --yes" in done.stderr) == (2, True)
    assert not any(time.endswith(" off") for time in project.table().values())
    assert call("schedule", "disable-all", "--yes").exit_code == 0
    assert all(time.endswith(" off") for time in project.table().values())
    done = call("schedule", "list")
    assert (done.exit_code, done.stdout.count("disabled")) == (0, 3)
    done = call("schedule", "sync")
    assert done.stdout.count("was disabled by a user and stays so") == 3

    done = call("schedule", "reset", "nightly", "--yes")
    assert "enabled false → true" in done.stdout
    assert call("schedule", "enable-all", "--yes").exit_code == 0
    entries = json.loads(call("--format", "json", "schedule").stdout)["entries"]
    assert {entry["name"]: entry["state"] for entry in entries} == dict.fromkeys(NAMES, "declared")


@pytest.mark.slow
def test_an_entry_without_a_queue_is_reported(call: Call, project: Project) -> None:
    project.entries["nightly"]["queue"] = "nowhere"
    project.ask("sync")
    done = call("schedule")
    assert (done.exit_code, "nightly: the inventory has no queue nowhere" in done.stdout) == (
        1,
        True,
    )


@pytest.mark.slow
def test_commands_ask_if_a_user_may_lose_something(
    call: Call, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.ask("sync")
    asked: list[str] = []
    monkeypatch.setattr(confirming, "has_terminal", lambda: True)
    monkeypatch.setattr(confirming, "agree", lambda question, _: asked.append(question))
    assert call("schedule", "sync", "--reset").stdout == "Nothing to do.\n"
    assert asked == []
    assert call("schedule", "disable-all").stdout.count("disable ") == 3
    assert asked == ["Disable these?"]


@pytest.mark.slow
def test_sync_asks_if_the_inventory_lets_it_reset_what_users_edited(
    place: Path, call: Call, project: Project
) -> None:
    """What is beat's own says `keep`, as beat does not read it."""
    path = place / "etc/shop/credentials/schedule.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beat_schedule_on_edit": "reset"}))
    project.edited = "reset"
    project.ask("sync")
    assert call("schedule", "sync").stdout == "Nothing to do.\n"
    assert call("schedule", "disable-all", "--yes").exit_code == 0
    done = call("schedule", "sync")
    assert (done.exit_code, "add --yes" in done.stderr) == (2, True)
    assert all(time.endswith(" off") for time in project.table().values())
    assert call("schedule", "sync", "--yes").exit_code == 0
    assert not any(time.endswith(" off") for time in project.table().values())


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("reset", "nothing"), 2, "no entry nothing is declared; the declared ones are "),
        (("sync", "more"), 2, "unexpected extra argument"),
        (("nosuch",), 2, "No such command"),
    ],
)
def test_usage_mistakes_are_refused(
    call: Call, argv: tuple[str, ...], status: int, words: str
) -> None:
    done = call("schedule", *argv)
    assert (done.exit_code, done.stdout) == (status, "")
    assert words in done.stderr


@pytest.mark.slow
def test_a_database_that_does_not_answer(call: Call, project: Project) -> None:
    project.environment["DATABASE_URL"] = "sqlite:////nowhere/db"
    for argv in (("list",), ("sync",), ("reset", "--yes")):
        done = call("schedule", *argv)
        assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
        assert "unable to open database file" in done.stderr


def test_a_schedule_that_is_not_in_a_database(place: Path, call: Call) -> None:
    (place / "etc/shop/credentials/beat.json").write_text(json.dumps(host.settings("beat")))
    done = call("schedule", "sync")
    assert (done.exit_code, "is not in a database" in done.stderr) == (2, True)


@pytest.mark.slow
def test_options_before_the_subcommand_apply_to_it(place: Path, call: Call) -> None:
    host.install(place, "blog")
    assert "several applications" in call("schedule", "list").stderr
    for argv in (
        ("--app", "shop", "schedule", "list"),
        ("schedule", "--app", "shop", "list"),
        ("schedule", "list", "--app", "shop"),
    ):
        assert '"timezone"' in call("--format", "json", *argv).stdout
