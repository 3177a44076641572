"""Start, stop and restart, with a fake systemctl whose steps each test defines."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.cli import services, units
from celery_fleet.common import systemctl
from tests.unit.cli import host
from tests.unit.cli.conftest import Call

UNITS = [
    "shop-worker@mail.service",
    "shop-worker@bulk.service",
    "shop-beat.service",
    "shop-flower.service",
    "shop-web.socket",
    "shop-web.service",
    "redis@shop-broker.service",
    "nginx.service",
]
MAIL, BULK, BEAT, FLOWER, SOCKET, WEB, *_ = UNITS
UP = {"ActiveState": "active", "SubState": "running", "Job": "0", "StatusText": "consuming mail"}
DOWN = {"ActiveState": "inactive", "SubState": "dead", "Job": "0", "StatusText": ""}
DRAINING = {
    "ActiveState": "deactivating",
    "SubState": "stop-sigterm",
    "Job": "7",
    "StatusText": "draining: 1 task running",
}
STARTING = {"ActiveState": "activating", "SubState": "start", "Job": "8", "StatusText": ""}
CRASHING = {"ActiveState": "activating", "SubState": "auto-restart", "Job": "0", "StatusText": ""}


class Systemd:
    """The fake's units, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        limits = {"TimeoutStartUSec": "infinity", "TimeoutStopUSec": "10min 30s"}
        self.units: dict[str, Any] = {
            name: {"now": {**UP, **limits, "InvocationID": "one"}, "steps": {}, "left": []}
            for name in UNITS
        }
        self.write()

    def write(self) -> None:
        self.path.write_text(json.dumps(self.units))

    def course(self, verb: str, name: str, *steps: dict[str, str]) -> None:
        self.units[name]["steps"][verb] = list(steps)
        self.write()

    def now(self, name: str, state: dict[str, str]) -> None:
        self.units[name]["now"] |= state
        self.write()

    def log(self) -> list[list[str]]:
        found: list[list[str]] = json.loads(self.path.read_text()).get("log", [])
        return found


@pytest.fixture
def systemd(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    (place / "etc/shop/cli.json").write_text(json.dumps(host.document(place, units=UNITS)))
    made = Systemd(tmp_path / "units.json")
    script = tmp_path / "systemctl"
    fake = Path(__file__).with_name("fake_systemctl.py")
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I {fake} {made.path} "$@"\n')
    script.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setattr("celery_fleet.cli.application.CONFIGURATION", place / "etc")
    monkeypatch.setattr(systemctl, "SYSTEMCTL", str(script))
    monkeypatch.setattr(services, "PAUSE", 0.01)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def test_units_have_short_names(place: Path) -> None:
    found = services.offered(host.application(place, units=UNITS))
    assert found == {
        "mail": [MAIL],
        "bulk": [BULK],
        "beat": [BEAT],
        "flower": [FLOWER],
        "web": [SOCKET, WEB],
    }


def test_a_stop_shows_the_drain(systemd: Systemd, call: Call) -> None:
    systemd.course("stop", MAIL, DRAINING, {**DRAINING, "StatusText": "stopping"}, DOWN)
    done = call("stop", "mail")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "shop-worker@mail: deactivating (stop-sigterm), draining: 1 task running",
        "shop-worker@mail: deactivating (stop-sigterm), stopping",
        "shop-worker@mail: inactive (dead)",
    ]
    assert "stop, 11 min at most" in done.stderr
    assert "the next site.yml starts it again" in done.stderr
    assert systemd.log() == [["stop", "--no-block", "--", MAIL]]


def test_stop_without_a_name_stops_everything_except_redis(systemd: Systemd, call: Call) -> None:
    for name in UNITS:
        systemd.course("stop", name, DOWN)
    assert call("stop").exit_code == 0
    assert systemd.log() == [["stop", "--no-block", "--", MAIL, BULK, BEAT, FLOWER, SOCKET, WEB]]


def test_a_restart_without_a_name_includes_beat_and_flower(systemd: Systemd, call: Call) -> None:
    for name in UNITS:
        systemd.course("restart", name, UP | {"InvocationID": "two"})
    done = call("restart", "--format", "json")
    assert done.exit_code == 0, done.output
    assert systemd.log() == [["restart", "--no-block", "--", MAIL, BULK, BEAT, FLOWER, WEB]]


def test_a_restart_ends_when_the_new_process_is_up(systemd: Systemd, call: Call) -> None:
    systemd.course(
        "restart", MAIL, DRAINING, DOWN | {"Job": "9"}, STARTING, UP | {"InvocationID": "two"}
    )
    systemd.course("restart", WEB, UP | {"InvocationID": "two"})
    done = call("restart", "mail@worker1", "web", "--format", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {name: unit["ok"] for name, unit in found["units"].items()} == {MAIL: True, WEB: True}
    assert systemd.log() == [["restart", "--no-block", "--", MAIL, WEB]], "the socket listens on"


def test_starting_a_unit_that_is_up_ends_at_once(systemd: Systemd, call: Call) -> None:
    done = call("start", "beat")
    assert (done.exit_code, done.stdout) == (0, "shop-beat: active (running), consuming mail\n")
    assert "watched for 90 s; a worker's start lasts until its broker answers" in done.stderr


@pytest.mark.parametrize(
    "end", [CRASHING, DOWN, {"ActiveState": "failed", "SubState": "failed", "Job": "0"}]
)
def test_a_start_that_fails_is_reported(systemd: Systemd, call: Call, end: dict[str, str]) -> None:
    systemd.now(MAIL, DOWN)
    systemd.course("start", MAIL, STARTING, end)
    done = call("start", "mail")
    assert done.exit_code == 1
    assert "not started: shop-worker@mail: " in done.stderr
    assert f"journalctl -u {MAIL} -n 50" in done.stderr


def test_a_start_that_waits_for_its_broker(
    systemd: Systemd, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "START", 0.3)
    systemd.now(MAIL, DOWN)
    systemd.course("start", MAIL, STARTING | {"StatusText": "connecting to the broker"})
    began = time.monotonic()
    done = call("start", "mail")
    assert time.monotonic() - began < 30
    assert done.exit_code == 1
    assert "not started within 0 s: shop-worker@mail: activating (start), connecting" in done.stderr


def test_no_wait_returns_at_once(systemd: Systemd, call: Call) -> None:
    systemd.course("stop", MAIL, DRAINING)
    done = call("stop", "mail", "--no-wait")
    assert (done.exit_code, done.stdout) == (0, "shop-worker@mail: stop has begun\n")


def test_a_systemd_that_does_not_answer_is_reported(
    systemd: Systemd, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = services.subprocess.run

    def late(command: list[str], **options: Any) -> Any:
        if "--no-block" in command:
            raise services.subprocess.TimeoutExpired(command, 10)
        return run(command, **options)

    monkeypatch.setattr(services.subprocess, "run", late)
    done = call("restart", "mail")
    assert (done.exit_code, "systemd has not answered within 10 s" in done.stderr) == (3, True)


def test_a_refusal_of_systemd_is_reported(systemd: Systemd, call: Call) -> None:
    systemd.units["refuses"] = True
    systemd.write()
    done = call("stop", "mail")
    assert (done.exit_code, done.stderr) == (
        3,
        "celery-fleet: systemctl stop: Failed to do it: no\n",
    )


@pytest.mark.parametrize("name", ["nobody", "mail@worker2", "nginx", "redis@shop-broker", "worker"])
def test_unknown_names_are_refused(systemd: Systemd, call: Call, name: str) -> None:
    done = call("stop", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "; this host has mail, bulk, beat, flower, web" in done.stderr
    assert systemd.log() == []


def test_a_host_is_not_sent_to_itself(systemd: Systemd, place: Path, call: Call) -> None:
    """A producer without a web process is in the group of those that may have one."""
    document = host.document(place, host="control1", units=["shop-beat.service"])
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    words = "control1 has no web of shop; it is on no host; this host has beat"
    assert words in call("stop", "web").stderr


def test_only_root_may_stop_units(
    systemd: Systemd, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = call("stop", "mail")
    assert (done.exit_code, systemd.log()) == (3, [])
    assert done.stderr.endswith("sudo celery-fleet stop mail\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1min 30s", 90),
        ("10min 30s", 630),
        ("2h", 7200),
        ("500ms", 0.5),
        ("infinity", None),
        ("", None),
    ],
)
def test_systemds_time_spans_are_parsed(text: str, seconds: float | None) -> None:
    assert units.span(text) == seconds
