"""`celery-fleet releases`, and the hold that `status` shows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.cli import releases
from tests.unit.cli.conftest import Call

OLD, NEW = "a" * 12, "b" * 12


@pytest.fixture
def record(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The record after a deploy that was refused; a test writes it with `write`."""
    monkeypatch.setattr(releases, "DIRECTORY", place)
    hold = {
        "release": OLD,
        "by": "ana",
        "at": time.time() - 7200,
        "why": f"release {NEW} was refused",
    }
    canary = {
        "node": "mail@worker1",
        "figures": ["50.0 % of 40 tasks failed"],
        "refusals": [],
        "tasks": 40,
    }
    common = {"by": "ana", "at": time.time() - 7200}
    history = [
        {
            **common,
            "release": OLD,
            "what": "main",
            "result": "deployed",
            "why": "",
            "canary": canary,
        },
        {
            **common,
            "release": NEW,
            "what": "v2",
            "result": "refused",
            "why": "it fails",
            "canary": canary,
        },
    ]
    return {"format": 1, "current": OLD, "hold": hold, "history": history}


def write(place: Path, record: object) -> None:
    (place / "shop.json").write_text(json.dumps(record))


def test_the_newest_comes_first_with_its_canary(call: Call, place: Path, record: Any) -> None:
    write(place, record)
    done = call("releases")
    assert done.exit_code == 0
    refused = next(line for line in done.stdout.splitlines() if NEW in line)
    assert "refused" in refused
    assert refused.rstrip().endswith("v2; it fails")
    assert "main; canary mail@worker1: 50.0 % of 40 tasks failed" in done.stdout
    assert done.stdout.index(NEW) < done.stdout.index("deployed")
    assert f"Release {OLD} serves." in done.stdout
    assert f"Release {OLD} is held by ana for 2 h 0 min: release {NEW} was refused." in done.stdout


def test_as_json_it_is_the_record(call: Call, place: Path, record: Any) -> None:
    write(place, record)
    found = json.loads(call("releases", "--json").stdout)
    assert found == {**record, "kept": found["kept"]}


def test_without_a_record_there_is_nothing_to_show(call: Call, place: Path, record: Any) -> None:
    done = call("releases")
    assert (done.exit_code, done.stdout) == (0, "No deploy is recorded yet.\n")


def test_a_damaged_record_is_named(call: Call, place: Path, record: Any) -> None:
    (place / "shop.json").write_text("{")
    done = call("releases")
    assert done.exit_code != 0
    assert "shop.json can't be read" in done.stderr


@pytest.mark.parametrize(
    "damaged",
    [
        *("{", "[1]", '{"hold": {"release": "x"}}', '{"hold": "x"}', '{"history": [3]}'),
        '{"history": [{"at": 1, "release": "x", "by": "ana", "why": ""}]}',
    ],
)
def test_status_goes_on_with_a_damaged_record(
    call: Call, place: Path, record: Any, damaged: str
) -> None:
    write(place, {**record, "hold": None})
    well = call("status")
    (place / "shop.json").write_text(damaged)
    done = call("status")
    # Everything else is as before.
    *shown, problem = done.stdout.splitlines()
    assert shown == well.stdout.splitlines()[: len(shown)]
    assert len(shown) > 3
    assert problem.startswith(f"Problem: {place}/shop.json can't be read")
    assert "copy it from another host" in problem
    found = json.loads(call("status", "--json").stdout)
    assert (found["hold"], found["ok"]) == (None, False)
    assert call("releases").exit_code != 0


def test_status_shows_a_hold(call: Call, place: Path, record: Any) -> None:
    write(place, record)
    assert "is held by ana for 2 h 0 min" in call("status").stdout
    assert json.loads(call("status", "--json").stdout)["hold"]["release"] == OLD
