"""Release commands on their host, run by the real program."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_repository import ROOT
from tests.unit.command_host import Host

# The tests on hosts recognise logs by this name.
LOG: re.Pattern[str] = runpy.run_path(str(ROOT / "molecule/fleets/tests/command_logs.py"))["LOG"]

pytestmark = pytest.mark.slow


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.end()


def test_a_command_runs_to_its_end(host: Host) -> None:
    command = host.counting("echo said; echo wrong >&2")
    assert host.ask("start", *command, release="0123abcdef")["state"] == "started"
    ended = host.ask("wait")
    assert (ended["state"], ended["status"], ended["tail"]) == ("ended", 0, "said\nwrong")
    assert ended["seconds"] < 30
    log = Path(ended["log"])
    assert log.parent == host.root / "var/log/celery-fleet/shop/commands"
    named = LOG.fullmatch(log.name)
    assert named
    assert (named["release"], named["name"]) == ("0123abcdef", "migrate")
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    given = json.loads(host.seen.read_text())
    attempt = given.pop("--unit")
    assert attempt.startswith("shop-command.migrate.")
    assert attempt.endswith(".service")
    assert given == {
        "--app": "shop",
        "--as": "producer",
        "--release": "0123abcdef",
        "--timeout": "30",
        "--umask": "0077",
        "--output": str(log),
    }


def test_a_long_timeout_is_passed_on_unchanged(host: Host) -> None:
    host.ask("start", "/bin/true", timeout=12345678)
    host.ask("wait")
    assert json.loads(host.seen.read_text())["--timeout"] == "12345678"


def until_go(host: Host) -> list[str]:
    """Return a command that runs until its file `go` exists."""
    return host.counting(f"until [ -e {host.root}/go ]; do sleep 0.1; done")


def test_it_is_not_started_twice(host: Host) -> None:
    command = until_go(host)
    assert host.ask("start", *command)["state"] == "started"
    # Another run.
    assert host.ask("start", *command, resumed=True)["state"] == "running"
    assert host.ask("wait", seconds=0)["state"] == "running"
    (host.root / "go").touch()
    assert host.ask("wait")["status"] == 0
    assert host.ask("start", *command, resumed=True)["state"] == "ended"
    assert host.begun == 1
    # Its mark was removed, so it runs again.
    assert host.ask("start", *command)["state"] == "started"
    assert host.ask("wait")["status"] == 0
    assert host.begun == 2


def test_a_failure_that_no_run_has_seen_is_ignored(host: Host) -> None:
    command = host.counting(f"[ -e {host.root}/mended ] || exit 3")
    host.ask("start", *command)
    assert host.ask("wait")["status"] == 3
    (host.root / "mended").touch()
    assert host.ask("start", *command, resumed=True)["state"] == "started"
    assert host.ask("wait")["status"] == 0
    assert host.begun == 2


@pytest.mark.parametrize("status", [0, 3])
def test_the_result_of_an_earlier_command_line_does_not_count(host: Host, status: int) -> None:
    wrong, right = host.counting(f"exit {status}"), host.counting("echo right")
    host.ask("start", *wrong)
    assert host.ask("wait")["status"] == status
    assert host.ask("start", *right, resumed=True)["state"] == "started"
    ended = host.ask("wait")
    assert (ended["status"], ended["tail"]) == (0, "right")
    assert "argv" not in ended
    # The same holds the other way round.
    assert host.ask("start", *wrong, resumed=True)["state"] == "started"
    assert host.ask("wait")["status"] == status
    assert host.begun == 3


def test_a_command_that_was_corrected_while_it_ran_waits_for_its_end(host: Host) -> None:
    host.ask("start", *until_go(host))
    assert host.ask("start", *host.counting("exit 4"))["state"] == "other"
    (host.root / "go").touch()
    assert host.ask("wait")["state"] == "gone"
    assert host.ask("start", *host.counting("exit 4"))["state"] == "started"
    assert host.ask("wait")["status"] == 4
    assert host.begun == 2


def test_another_releases_command_is_waited_for(host: Host) -> None:
    host.ask("start", *until_go(host), mark="r0", release="r0")
    assert host.ask("start", *host.counting())["state"] == "other"
    (host.root / "go").touch()
    # Its result does not count for this release.
    assert host.ask("wait")["state"] == "gone"
    assert host.ask("start", *host.counting())["state"] == "started"
    assert host.ask("wait")["status"] == 0
    assert host.begun == 2


def test_a_command_that_is_killed_leaves_no_result(host: Host) -> None:
    host.ask("start", *host.counting("sleep 30"))
    while not host.begun:
        time.sleep(0.05)
    for pid in host.pids():
        os.killpg(pid, signal.SIGKILL)
    assert host.ask("wait")["state"] == "gone"
    assert host.ask("start", *host.counting())["state"] == "started"
    assert host.ask("wait")["status"] == 0


def test_a_command_that_takes_too_long_or_does_not_exist(host: Host) -> None:
    host.ask("start", "/bin/sleep", "30", timeout=0.5)
    ended = host.ask("wait")
    assert (ended["status"], ended["tail"]) == (124, "took more than 0.5 s")
    host.ask("start", "/no/such", mark="two")
    ended = host.ask("wait", mark="two")
    assert (ended["status"], ended["tail"]) == (127, "no such command")


def test_commands_that_start_in_the_same_second_have_separate_logs(host: Host) -> None:
    host.stands_still()
    for word in ("one", "two"):
        host.ask("start", "/bin/echo", word)
        assert host.ask("wait")["tail"] == word


def test_a_refusal_of_systemd_is_reported(host: Host) -> None:
    host.refuses(True)
    answer = host.ask("start", *host.counting())
    assert answer["state"] == "refused"
    assert "Failed to start transient service unit" in answer["error"]


def test_the_end_of_a_log_is_shown(host: Host) -> None:
    host.ask("start", "/bin/sh", "-c", "seq 1 100000")
    ended = host.ask("wait")
    assert ended["tail"].splitlines()[-1] == "100000"
    assert len(ended["tail"].splitlines()) == 20
    assert Path(ended["log"]).stat().st_size > 500_000


def test_old_logs_are_deleted(host: Host) -> None:
    logs = host.root / "var/log/celery-fleet/shop/commands"
    logs.mkdir(parents=True)
    for number in range(60):
        (logs / f"2020010{number:02}-r0-old.log").touch()
    host.ask("start", "/bin/true")
    newest = Path(host.ask("wait")["log"]).name
    left = sorted(path.name for path in logs.iterdir())
    assert len(left) == 50
    assert left[-1] == newest


def test_reading_the_state_writes_nothing(host: Host) -> None:
    before = sorted(host.root.rglob("*"))
    assert host.ask("wait")["state"] == "gone"
    assert sorted(host.root.rglob("*")) == before
