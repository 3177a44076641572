"""How a host is asked for the schedule in the database, and what is made of its answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import schedule

ITEM = {"entry": "Sync All", "action": "add", "why": ["shop.sync, every 3600 s"]}


def done(
    answer: dict[str, Any] | str, rc: int = 0, before: str = "", **more: Any
) -> dict[str, Any]:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return {"rc": rc, "stdout": f"{before}{text}\n", "stderr": "", **more}


def well(*items: Any, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"ok": True, "error": None, "items": list(items), "notes": list(notes), "of": 3}


def wrong(error: str, **more: Any) -> dict[str, Any]:
    return {"ok": False, "error": error, **more}


def test_the_plan_has_what_differs_and_what_users_did() -> None:
    found = schedule.planned("c1", done(well(ITEM, notes=("x was edited",))))
    assert found["items"] == [
        {
            "host": "c1",
            "part": "celery_beat_schedule",
            "subject": "entry Sync All",
            "action": "add",
            "why": ["shop.sync, every 3600 s"],
        }
    ]
    assert (found["notes"], found["due"]) == (["x was edited"], True)
    assert schedule.planned("c1", done(well())) == {"items": [], "notes": [], "due": False}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"rc": 99, "stdout": "", "stderr": ""}, "asked once the release is built"),
        (done("", rc=125, stderr="celery-fleet exec: no file"), "yet: celery-fleet exec: no file"),
        (done(wrong("connection refused"), rc=1), "can't be asked yet: connection refused"),
        # An entry that the current release can't hold may be one of the new one's.
        (
            done(wrong("entry x", refused=True), rc=1, before="by the current release\n"),
            "can't be asked yet: entry x",
        ),
        (done(well(), before="by the current release\n"), "asked again by the new release"),
        (
            done(well(), before="Welcome\nby the current release\n"),
            "asked again by the new release",
        ),
    ],
)
def test_a_database_that_can_not_be_asked_yet_is_asked_later(
    how: dict[str, Any], words: str
) -> None:
    found = schedule.planned("c1", how)
    assert (found["due"], len(found["items"])) == (True, 1)
    assert words in found["items"][0]["why"][0]


def test_an_error_of_the_schedule_ends_the_plan() -> None:
    with pytest.raises(schedule.ScheduleError, match="c1: entry x has no place"):
        schedule.planned("c1", done(wrong("entry x has no place", refused=True), rc=1))


def test_written_entries_are_reported() -> None:
    found = schedule.written("c1", done(well(ITEM, notes=("y was disabled",))))
    assert found == {
        "changed": True,
        "lines": ["schedule entry Sync All: added (shop.sync, every 3600 s)", "y was disabled"],
    }
    assert schedule.written("c1", done(well()))["changed"] is False


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"rc": 99, "stdout": "", "stderr": ""}, "the release is not built on this host"),
        (done(wrong("connection refused"), rc=1), "connection refused.\nNothing was written"),
        (done("", rc=124, stderr="took more than 60 s"), "took more than 60 s"),
    ],
)
def test_a_failed_write_is_reported(how: dict[str, Any], words: str) -> None:
    with pytest.raises(schedule.ScheduleError) as told:
        schedule.written("c1", how)
    assert words in str(told.value)


def test_the_host_is_asked_by_the_new_release_or_else_by_the_current_one(tmp_path: Path) -> None:
    runtime, root = tmp_path / "runtime", tmp_path / "opt"

    def ask(do: str = "plan") -> tuple[int, str]:
        command = schedule.command(do, "shop", str(root), str(runtime), "r2", 60)
        ended = subprocess.run(
            ["/bin/sh", "-c", command], input="{}", capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout

    assert ask() == (99, "")
    (runtime / "celery_fleet/beat/database").mkdir(parents=True)
    (runtime / "celery_fleet/system").mkdir()
    (runtime / "celery_fleet/beat/database/program.py").write_text("")
    (runtime / "celery_fleet/system/exec.py").write_text(
        "import sys; print(sys.argv[1:], sys.stdin.read())"
    )
    assert ask() == (99, "")
    (root / "releases/r1").mkdir(parents=True)
    (root / "releases/r1/release.json").write_text("{}")
    (root / "current").symlink_to("releases/r1")
    own = ["--app", "shop", "--as", "producer", "--timeout", "60", "--"]
    own += ["python", "-m", "celery_fleet.beat.database.program", "--settings", "plan"]
    assert ask() == (0, f"by the current release\n{own} {{}}\n")
    # It writes nothing, should the new one's build be left out by tags.
    assert ask("sync") == (99, "")
    (root / "releases/r2").mkdir()
    (root / "releases/r2/release.json").write_text("{}")
    assert ask() == (0, f"{['--release', 'r2', *own]} {{}}\n")
