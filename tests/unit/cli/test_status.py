"""What `celery-fleet status` does not call well, a release that is not there, and a task that no log has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from celery_fleet.cli import ask, units
from tests.unit.cli import host
from tests.unit.cli.conftest import Call, unit

ID = "6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6"


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("waiting for the schedule's database: connection refused", False),
        ("stuck: beat's loop does not run", False),
        ("standing by: control1 sends", True),
    ],
)
def test_a_unit_that_runs_may_say_that_it_does_not_work(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch, text: str, well: bool
) -> None:
    document = host.document(place, host="redis1", units=["shop-beat.service"])
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    monkeypatch.setattr(ask, "question", lambda *_, **__: {"workers": {}, "queues": {}})
    monkeypatch.setattr(units, "show", lambda names: [replace(unit(names[0]), status=text)])
    done = call("status", "--format", "json")
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0 if well else 1, well)
    problems = [] if well else [f"shop-beat.service is active ({text})"]
    assert json.loads(done.stdout)["problems"] == problems


def test_a_current_release_that_was_deleted_is_named(place: Path, call: Call) -> None:
    release = host.release(place)
    release.rename(release.with_name("gone"))
    done = call("tasks")
    assert done.exit_code == 3
    assert "shop has no release on worker1 (releases/r1 is missing)" in done.stderr
    assert "run this on worker1" not in done.stderr


def test_a_task_in_no_log_file_is_reported(
    place: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    """zgrep would print nothing."""
    files = {"destination": "file", "directory": str(place)}
    document = host.document(place, logs=files, units=["shop-worker@mail.service"])
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    (place / "celery_mail.log").write_text(f"{ID} received\n")
    done = call("logs", "--task", ID)
    assert (done.exit_code, capfd.readouterr().out) == (0, f"{ID} received\n"), done.stderr
    done = call("logs", "--task", ID.replace("6", "7"))
    assert done.exit_code == 1
    assert done.stderr.endswith("no log file of worker1 has it; other hosts have their own\n")
