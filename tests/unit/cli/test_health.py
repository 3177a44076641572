"""``celery-fleet health``."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celery_fleet.cli import application, units
from celery_fleet.cli.commands import health
from celery_fleet.cli.main import cli
from celery_fleet.health import result as health_result
from celery_fleet.health.result import BAD, GOOD, WARNING, Finding
from tests.unit.cli import host

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(application, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(health_result, "STATE", tmp_path)
    monkeypatch.setattr(health_result, "UNWRITTEN", tmp_path / "run")
    monkeypatch.delenv("CELERY_FLEET_APP", raising=False)
    host.install(tmp_path)
    return lambda *words: CliRunner().invoke(cli, ["health", *words])


def leave(directory: Path, state: str, ago: float = 10, **more: Any) -> dict[str, Any]:
    result = health_result.compose(
        app="shop",
        host="worker1",
        interval=300,
        findings={
            "disk": Finding(state, "/: 3 % free", {"/": 3}),
            "cpu": Finding(GOOD, "load 0.10 on 2 cores over five minutes"),
        },
        last={},
        checked=health_result.moment(datetime.now(UTC) - timedelta(seconds=ago)),
        seconds=1.25,
        invocation="x",
    )
    health_result.write(directory / "shop.json", {**result, **more})
    return result


def test_a_result_that_could_not_be_written_to_its_place_is_shown(tmp_path: Path, run: Run) -> None:
    leave(tmp_path, GOOD)
    (tmp_path / "run").mkdir()
    leave(tmp_path / "run", BAD)
    (tmp_path / "run/shop.json").rename(tmp_path / "run/shop.health.json")
    done = run()
    assert (done.exit_code, "shop on worker1: bad" in done.output) == (1, True), done.output


def test_who_may_not_look_for_such_a_result_is_shown_the_last_one(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, GOOD)

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(health_result.os, "stat", refuse)
        assert health_result.current_of("shop") == tmp_path / "shop.json"


@pytest.mark.parametrize(("state", "status"), [(GOOD, 0), (WARNING, 0), (BAD, 1)])
def test_the_exit_status_follows_the_result(
    tmp_path: Path, run: Run, state: str, status: int
) -> None:
    leave(tmp_path, state)
    done = run()
    assert done.exit_code == status, done.output
    assert done.output.splitlines()[0].rstrip() == f"shop on worker1: {state}"
    assert "/: 3 % free" in done.output
    assert re.search(r"Checked [1-5]\d s ago, in 1\.25 s", done.output)


def test_the_result_as_json(tmp_path: Path, run: Run) -> None:
    left = leave(tmp_path, BAD)
    done = run("--format", "json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert 10 <= found.pop("age") < 60
    assert found.pop("stale") is False
    assert found == left


def test_a_result_that_is_too_old_is_unknown(tmp_path: Path, run: Run) -> None:
    leave(tmp_path, GOOD, ago=601)
    done = run()
    assert done.exit_code == 3
    assert done.stderr == (
        "celery-fleet: this result is older than 2 intervals of 300 s: systemctl status shop-health.timer\n"
    )
    assert json.loads(run("--format", "json").stdout)["stale"] is True


def test_without_a_result(tmp_path: Path, run: Run) -> None:
    done = run()
    assert done.exit_code == 3
    assert "there is no result yet" in done.output
    assert "health --now" in done.output
    (tmp_path / "shop.json").write_text("{")
    done = run()
    assert (done.exit_code, "can't be read" in done.output) == (3, True)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace systemctl: each `start` leaves a result; the first is from a check that the timer had begun earlier."""
    calls: list[list[str]] = []

    def start(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command[1:])
        leave(tmp_path, BAD, ago=60 if len(calls) == 1 else 0)
        return subprocess.CompletedProcess(command, 1, "", "Job for shop-health.service failed.")

    unit = units.UnitStatus("shop-health.service", "inactive", "dead", "", None, None)
    monkeypatch.setattr(units, "show", lambda names: [unit])
    monkeypatch.setattr(health.subprocess, "run", start)
    monkeypatch.setattr(health.os, "geteuid", lambda: 0)
    return calls


def test_now_waits_for_a_check_that_began_after_the_call(
    run: Run, systemd: list[list[str]]
) -> None:
    done = run("--now")
    assert (done.exit_code, "shop on worker1: bad" in done.output) == (1, True), done.output
    assert systemd == [["start", "shop-health.service"]] * 2


@pytest.mark.usefixtures("systemd")
def test_now_without_the_unit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = units.UnitStatus("shop-health.service", "missing", "", "", None, None)
    monkeypatch.setattr(units, "show", lambda names: [unit])
    done = run("--now")
    assert done.exit_code == 3
    assert "run site.yml with celery_health_enabled: true" in done.output


@pytest.mark.usefixtures("systemd")
def test_now_reports_a_check_that_leaves_no_result(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "Job failed.\nSee")

    monkeypatch.setattr(health.subprocess, "run", fails)
    done = run("--now")
    assert done.exit_code == 3
    assert "left no result (Job failed. See): journalctl -u shop-health.service" in done.output


@pytest.mark.usefixtures("systemd")
def test_now_needs_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health.os, "geteuid", lambda: 1000)
    done = run("--now")
    assert (done.exit_code, "only root" in done.output) == (3, True)
