"""``celery-fleet schedule`` with what entries have done: last runs, coming slots, the history, and a run by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from celery.schedules import crontab
from click.testing import CliRunner, Result

from celery_fleet.beat import standby
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.cli import application, ask, journal, units
from celery_fleet.cli.main import cli
from celery_fleet.cli.units import status_of
from celery_fleet.health.in_release import last_line
from tests import fleet
from tests.support.redis_server import Server, redis_server
from tests.unit.cli import host

Call = Callable[..., Result]

APPLICATION = """
from celery import Celery
app = Celery("shop")
@app.task(name="shop.add")
def add(a, b=0): return a + b
"""

ENTRIES = {
    "hourly": {
        "task": "shop.add",
        "crontab": {"minute": 0},
        "queue": "mail",
        "args": [1],
        "kwargs": {"b": 2},
        "options": {"priority": 6},
    },
    "often": {"task": "shop.add", "interval": 600, "queue": "slow"},
    "lost": {"task": "shop.add", "interval": 86400, "queue": "nowhere", "args": [1]},
}

#: The beginning of this hour.
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
#: Slots since two hours before it, of which the last may be too young to count. An hour may begin while the tests run.
MISSED = (1, 2, 3)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "host"
    directory = host.install(root, queues=["mail", "slow"])
    settings = host.settings("beat")
    settings["celery"].update(beat_schedule=ENTRIES, result_backend="disabled://")
    (directory / "credentials" / "beat.json").write_text(json.dumps(settings))
    (root / "shop.py").write_text(APPLICATION)
    monkeypatch.setattr(application, "CONFIGURATION", root / "etc")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return root


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that calls the command, with this Python in place of systemd's unit."""

    def in_release(
        where: object,
        component: str,
        command: list[str],
        timeout: float,
        request: Mapping[str, Any] | None = None,
        errors: bool = False,
    ) -> Any:
        assert (component, command[0]) == ("beat", "python")
        done = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=place,
            env=fleet.environment("beat", place / "etc/shop/credentials/beat.json", app="shop"),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return last_line(done, command[-1])

    monkeypatch.setattr(ask, "in_release", in_release)

    def called(*argv: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["celery-fleet", *argv])
        done = CliRunner().invoke(cli, argv, prog_name="celery-fleet")
        unexpected = done.exception
        assert unexpected is None or isinstance(unexpected, SystemExit), repr(unexpected)
        return done

    return called


def entries(done: Result) -> dict[str, dict[str, Any]]:
    assert done.exit_code == 0, done.stderr
    return {entry["name"]: entry for entry in json.loads(done.stdout)["entries"]}


def logged(place: Path, monkeypatch: pytest.MonkeyPatch, *lines: tuple[float, str]) -> None:
    """Replace journalctl by a program that prints entries of beat, some minutes after `HOUR`."""
    found = [
        {
            "_SOURCE_REALTIME_TIMESTAMP": str(int((HOUR.timestamp() + minutes * 60) * 1e6)),
            "MESSAGE": message,
        }
        for minutes, message in lines
    ]
    (place / "entries").write_text("".join(f"{json.dumps(one)}\n" for one in found))
    program = place / "journalctl"
    program.write_text(f'#!/bin/sh\necho "$@" >{place}/asked\ncat {place}/entries\n')
    program.chmod(0o755)
    monkeypatch.setattr(journal, "JOURNALCTL", str(program))


def sending(entry: str) -> str:
    return f"[2026-11-21 03:00:00,000: INFO/MainProcess] Scheduler: Sending due task {entry} (shop.add)"


def test_the_last_runs_come_from_the_running_beat(place: Path, call: Call) -> None:
    about = {"task": "t", "due": f"{HOUR + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"}
    last = HOUR - timedelta(hours=2)
    found = [
        {"name": "hourly", **about, "last": f"{last:%Y-%m-%dT%H:%M:02.500000Z}", "runs": 7},
        {"name": "often", **about, "last": f"{last:%Y-%m-%dT%H:%M:%SZ}", "runs": 0},
    ]
    (place / "schedule.json").write_text(json.dumps({"entries": found}))
    listed = entries(call("schedule", "--json"))
    hourly = listed["hourly"]
    assert hourly["last"]["utc"] == (last + timedelta(seconds=2)).isoformat()
    assert (hourly["drift"], hourly["missed"] in MISSED) == (2.5, True)
    assert (listed["often"]["last"], listed["often"]["missed"] >= 11) == (None, True)
    assert (listed["lost"]["last"], listed["lost"]["missed"]) == (None, None)
    table = call("schedule").stdout
    assert "last (UTC)" in table
    assert "2.5 s" in table


def test_a_beat_that_stands_by_does_not_know_the_last_runs(place: Path, call: Call) -> None:
    about = {"task": "t", "due": f"{HOUR:%Y-%m-%dT%H:%M:%SZ}"}
    last = f"{HOUR - timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}"
    found = [{"name": "hourly", **about, "last": last, "runs": 7}]
    (place / "schedule.json").write_text(json.dumps({"stands_by": True, "entries": found}))
    hourly = entries(call("schedule", "--json"))["hourly"]
    assert (hourly["last"], hourly["drift"], hourly["missed"]) == (None, None, None)


@pytest.mark.slow
def test_a_host_whose_beat_stands_by_says_so(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "stands by" not in call("schedule").stdout
    beat = status_of({"Id": "shop-beat.service", "StatusText": standby.STANDING_BY})
    monkeypatch.setattr(units, "show", lambda names: [beat])
    assert "The beat of this host stands by" in call("schedule").stdout
    entries(call("schedule", "--json"))


def test_the_last_runs_come_from_beats_own_file_if_none_runs(place: Path, call: Call) -> None:
    last = HOUR - timedelta(hours=2)
    entry = ScheduleEntry("hourly", "t", last, 3, crontab(minute=0))
    store = ScheduleFile.open(str(place / "celerybeat-schedule"))
    store["entries"] = {"hourly": entry}
    store.sync()
    hourly = entries(call("schedule", "--json"))["hourly"]
    assert hourly["last"]["utc"] == last.isoformat()
    assert (hourly["drift"], hourly["missed"] in MISSED) == (0, True)


def test_without_a_record_the_due_times_are_shown(place: Path, call: Call) -> None:
    (place / "celerybeat-schedule").write_text("broken")
    hourly = entries(call("schedule", "--json"))["hourly"]
    assert (hourly["last"], hourly["drift"], hourly["missed"]) == (None, None, None)
    assert len(hourly["due"]) == 1


@pytest.mark.slow
def test_the_coming_slots_are_in_order(call: Call) -> None:
    done = call("schedule", "next", "-n", "5", "--json")
    found = json.loads(done.stdout)["slots"]
    times = [slot["due"]["utc"] for slot in found]
    assert (len(times), times) == (5, sorted(times))
    assert sum(slot["name"] == "often" for slot in found) >= 4
    assert call("schedule", "next", "-n", "3").stdout.count("shop.add") == 3


@pytest.mark.slow
def test_the_history(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    as_json = json.dumps({"message": "Scheduler: Sending due task hourly (shop.add)"})
    logged(
        place,
        monkeypatch,
        (-360.0, sending("hourly")),
        (-359.0, "beat: Starting..."),
        (-300.0, as_json),
        (-125.0, sending("often")),
        (-119.5, sending("hourly")),
        (-115.0, sending("often")),
    )
    done = call("schedule", "history", "--json")
    assert done.exit_code == 0, done.stderr
    assert "--unit=shop-beat.service LOGGER=celery.beat" in (place / "asked").read_text()
    runs = json.loads(done.stdout)["runs"]
    assert [(run["name"], run["drift"], run["missed"]) for run in runs] == [
        ("hourly", 0, 0),
        ("hourly", 0, 0),
        ("often", None, 0),
        ("hourly", 30, 2),
        ("often", 0, 0),
    ]
    assert runs[3]["slot"]["utc"] == (HOUR - timedelta(hours=2)).isoformat()
    # An interval's slot depends on the run before, also if only the last one is shown.
    (run,) = json.loads(call("schedule", "history", "often", "-n", "1", "--json").stdout)["runs"]
    assert (run["name"], run["drift"]) == ("often", 0)
    table = call("schedule", "history", "hourly").stdout
    assert ("30 s" in table, "often" in table) == (True, False)


@pytest.mark.slow
def test_the_history_has_no_runs_that_were_not_sent(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = "[2026-11-21 03:00:00,000: ERROR/MainProcess] Message Error:"
    logged(
        place,
        monkeypatch,
        (-180.0, sending("hourly")),
        (-120.0, sending("hourly")),
        (
            -119.9,
            f"{prefix} Couldn't apply scheduled task hourly: OOM command not allowed\n['  File",
        ),
        (-60.0, sending("hourly")),
        (-30.0, sending("often")),
        (-29.9, "often was not sent: another beat has become the leader, so this one stops"),
    )
    runs = json.loads(call("schedule", "history", "--json").stdout)["runs"]
    assert "LOGGER=celery_fleet.beat" in (place / "asked").read_text()
    assert [(run["name"], run["missed"]) for run in runs] == [("hourly", 0), ("hourly", 1)]


@pytest.mark.slow
def test_with_several_beats_the_history_does_not_know_what_was_missed(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "etc/shop/cli.json"
    document = json.loads(path.read_text())
    document["hosts"]["control2"] = ["celery_beat"]
    document["hosts"]["control1"] = ["celery_beat"]
    path.write_text(json.dumps(document))
    logged(place, monkeypatch, (-300.0, sending("hourly")), (-60.0, sending("hourly")))
    runs = json.loads(call("schedule", "history", "--json").stdout)["runs"]
    assert [(run["drift"], run["missed"]) for run in runs] == [(0, None), (0, None)]


def test_a_number_before_the_subcommand_is_refused(call: Call) -> None:
    done = call("schedule", "-n", "5", "next")
    assert (done.exit_code, done.stderr) == (
        2,
        "celery-fleet: -n comes after next, if that takes it: see --help\n",
    )


def test_a_history_without_runs(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    logged(place, monkeypatch)
    done = call("schedule", "history", "nightly")
    assert (done.exit_code, "has no run of nightly; beat logs them at INFO" in done.stdout) == (
        0,
        True,
    )


def test_with_log_files_there_is_no_history(place: Path, call: Call) -> None:
    path = place / "etc/shop/cli.json"
    document = json.loads(path.read_text())
    document["logs"]["destination"] = "file"
    path.write_text(json.dumps(document))
    done = call("schedule", "history")
    assert (done.exit_code, "celery-fleet logs beat" in done.stderr) == (3, True)


@pytest.mark.slow
def test_an_entry_is_run_by_hand(place: Path, call: Call, broker: Server) -> None:
    path = place / "etc/shop/credentials/beat.json"
    settings = json.loads(path.read_text())
    settings["celery"]["broker_url"] = broker.url
    path.write_text(json.dumps(settings))
    done = call("schedule", "run", "hourly")
    assert done.exit_code == 0, done.stderr
    (key,) = (one.decode() for one in broker.client.keys("mail*"))
    (message,) = (json.loads(one) for one in broker.client.lrange(key, 0, -1))
    identity = message["headers"]["id"]
    assert done.stdout == f"shop.add was sent to mail as {identity}\n"
    assert (message["headers"]["argsrepr"], message["headers"]["kwargsrepr"]) == ("[1]", "{'b': 2}")
    assert message["headers"]["celery_beat_task"] is True
    assert message["properties"]["priority"] == 6
    done = call("schedule", "run", "nosuch")
    assert (
        done.exit_code,
        "the schedule has no entry nosuch; it has hourly, lost" in done.stderr,
    ) == (
        2,
        True,
    )
    done = call("schedule", "run", "lost")
    assert (done.exit_code, "goes to the queue nowhere" in done.stderr) == (2, True)
    done = call("schedule", "run", "lost", "--anyway", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["queue"] == "nowhere"


def test_a_run_says_that_the_broker_is_down(call: Call) -> None:
    done = call("schedule", "run", "hourly")
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert "the broker can't be asked" in done.stderr
