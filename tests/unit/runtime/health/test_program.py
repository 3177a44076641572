"""The run of all checks: time limits, states, the result, the journal, the command on a change."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.environment import (
    environment_file,
)

from celery_fleet.common import json_file, systemctl
from celery_fleet.health import checks as health_checks
from celery_fleet.health import program as health
from celery_fleet.health import result as health_result
from celery_fleet.health.result import BAD, GOOD, UNKNOWN, WARNING, Finding
from celery_fleet.health.setup import CheckError, Setup

SOURCE = Path(__file__).parents[4] / "src"
PASSWORD = "s3cr3t-of-the-operator"


def document(directory: Path, **more: Any) -> dict[str, Any]:
    """Return the file that the control side writes."""
    return {
        "format": 1,
        "app": "shop",
        "host": "worker1",
        "user": "nobody",
        "directory": str(directory),
        "root": str(directory / "opt"),
        "interval": 300,
        "checks": ["disk"],
        "thresholds": {},
        "on_change": [],
        "fleet": False,
        "units": [],
        "workers": {},
        "queues": [],
        "servers": {},
        "ca": "",
        "beat": None,
        "paths": [str(directory)],
        "logs": [],
        "certificates": [],
        **more,
    }


def read(directory: Path, **more: Any) -> Setup:
    path = directory / "health.json"
    path.write_text(json.dumps(document(directory, **more)))
    return health_checks.read(path)


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_result, "UNWRITTEN", tmp_path / "run")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace all checks with the test's own."""

    def put(**given: Callable[[Setup], Finding]) -> None:
        monkeypatch.setattr(health_checks, "CHECKS", {n: (one, 5.0) for n, one in given.items()})

    return put


# --- running -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_check_that_hangs_is_bad_and_delays_no_other() -> None:
    forever = threading.Event()

    def hangs() -> Finding:
        forever.wait(30)
        return Finding(GOOD, "")

    began = time.monotonic()
    found = health.run(
        {"hangs": (hangs, 0.5), "too": (hangs, 0.5), "well": (lambda: Finding(GOOD, "yes"), 20)}
    )
    # The check that hangs does so for 30 s.
    assert time.monotonic() - began < 15
    forever.set()
    assert found == {
        "hangs": Finding(BAD, "no answer within 0.5 s"),
        "too": Finding(BAD, "no answer within 0.5 s"),
        "well": Finding(GOOD, "yes"),
    }


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CheckError("there is\nno release"), "there is no release"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError("_ssl.c:1: timed out"), "no answer: the time ran out"),
        (FileNotFoundError(2, "No such file", "/x"), "/x: No such file"),
        (KeyError("x"), "KeyError: 'x'"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_an_exception_in_a_check_is_bad_in_one_line(error: Exception, text: str) -> None:
    def check() -> Finding:
        raise error

    assert health.guarded(check) == Finding(BAD, text)


def test_all_checks_end_before_systemds_timeout() -> None:
    assert max(bound for _, bound in health_checks.CHECKS.values()) < 60


# --- the result --------------------------------------------------------------------------------------


def test_the_state_of_a_host_is_that_of_its_worst_check(
    tmp_path: Path, checks: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"a": WARNING}
    checks(
        a=lambda setup: Finding(state["a"], "of a", {"n": 1}), b=lambda setup: Finding(GOOD, "of b")
    )
    setup = read(tmp_path, checks=["b", "a"])
    assert health.check(setup, tmp_path) == 0
    path = tmp_path / "shop.json"
    assert path.stat().st_mode & 0o777 == 0o644
    first = json.loads(path.read_text())
    assert {name: first[name] for name in ("format", "app", "host", "state", "previous")} == {
        "format": 1,
        "app": "shop",
        "host": "worker1",
        "state": WARNING,
        "previous": UNKNOWN,
    }
    assert first["checks"]["a"] == {"state": WARNING, "text": "of a", "value": {"n": 1}}
    assert first["checks"]["b"] == {"state": GOOD, "text": "of b", "value": None}
    assert first["since"] == first["checked"]
    assert capsys.readouterr().out.splitlines() == [
        "<4>a: unknown -> warning: of a",
        "<4>health is warning (1 warning, 1 good); a: of a",
    ]
    # Without changes there is one line.
    health.check(setup, tmp_path)
    second = json.loads(path.read_text())
    assert (second["previous"], second["since"]) == (WARNING, first["since"])
    assert len(capsys.readouterr().out.splitlines()) == 1
    state["a"] = BAD
    assert health.check(setup, tmp_path) == 1
    third = json.loads(path.read_text())
    assert (third["state"], third["previous"], third["since"]) == (BAD, WARNING, third["checked"])
    assert "<3>a: warning -> bad: of a" in capsys.readouterr().out
    state["a"] = GOOD
    assert health.check(setup, tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "<6>a: bad -> good: of a",
        "<6>health is good (2 good)",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["health.json", "shop.json"]


def test_nothing_secret_is_in_the_result_or_the_journal(
    tmp_path: Path, checks: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "credentials").mkdir()
    url = f"rediss://operator:{PASSWORD}@redis1:6379/0"
    (tmp_path / "credentials/operator.json").write_text(json.dumps({"celery": {"broker_url": url}}))
    # The secret is percent-encoded in the URL, and decoded in a driver's error.
    (tmp_path / "credentials/exec.env").write_text(
        'DATABASE_URL="postgresql://u:p%22w%24rd@db/x"\n'
    )

    def check(setup: Setup) -> Finding:
        said = f'{PASSWORD} p"w$rd p%22w%24rd {url}'
        return Finding(BAD, said, {"deep": [said]})

    checks(a=check)
    health.check(read(tmp_path, checks=["a"]), tmp_path)
    for text in ((tmp_path / "shop.json").read_text(), capsys.readouterr().out):
        assert "***" in text
        for secret in (PASSWORD, 'p"w$rd', r"p\"w$rd", "p%22w%24rd"):
            assert secret not in text


def test_values_of_the_secret_environment_are_not_repeated(
    tmp_path: Path, checks: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver or the application may print any of them as its last words."""
    (tmp_path / "credentials").mkdir()
    given = {
        "API_TOKEN": "t0k3n",
        "KEY": "-----BEGIN\nc29tZQ\n",
        "CACHE": "redis://:p%40ss@h",
        "ON": "yes",
    }
    (tmp_path / "credentials/exec.env").write_text(environment_file(given))
    (tmp_path / "exec.env").write_text(environment_file({"STAGE": "production"}))
    checks(a=lambda setup: Finding(BAD, "t0k3n c29tZQ p@ss yes production", {"deep": ["t0k3n"]}))
    health.check(read(tmp_path, checks=["a"]), tmp_path)
    for text in ((tmp_path / "shop.json").read_text(), capsys.readouterr().out):
        assert "*** *** *** yes production" in text
        assert "t0k3n" not in text


def test_a_damaged_result_counts_as_missing(tmp_path: Path, checks: Callable[..., None]) -> None:
    checks(a=lambda setup: Finding(GOOD, ""))
    path = tmp_path / "shop.json"
    for text in ("", "[]", "{}", '{"format": 1, "state": "good", "checks": {}}', "\0"):
        path.write_text(text)
        assert health.check(read(tmp_path, checks=["a"]), tmp_path) == 0
        assert json.loads(path.read_text())["previous"] == UNKNOWN


def test_a_result_that_can_not_be_written_is_reported(
    tmp_path: Path, checks: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    checks(a=lambda setup: Finding(GOOD, ""))
    assert health.check(read(tmp_path, checks=["a"]), tmp_path / "missing") == 1
    assert "shop.json can't be written: No such file or directory" in capsys.readouterr().out


@pytest.mark.parametrize("room", [True, False])
def test_a_full_disk_leaves_no_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    """An old result would say that all is well, and no change would be reported."""
    path = tmp_path / "shop.json"
    path.write_text("of before")
    replace = os.replace

    def put(fresh: Path, target: Path) -> None:
        # Once the old result is deleted there is room for this one, or still not.
        if path.exists() or not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(fresh, target)

    monkeypatch.setattr(os, "replace", put)
    with contextlib.nullcontext() if room else pytest.raises(OSError, match="No space left"):
        health_result.write(path, {"state": "bad"})

    monkeypatch.undo()
    assert [one.read_text() for one in tmp_path.iterdir()] == (
        ['{\n  "state": "bad"\n}\n'] if room else []
    )


def test_the_age_of_a_result() -> None:
    now = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
    result = {"checked": health_result.moment(now - timedelta(seconds=601)), "interval": 300}
    assert health_result.age(result, now) == 601
    assert health_result.stale(result, 601)
    assert not health_result.stale(result, 599)
    # The clock was set back.
    assert health_result.age(result, now - timedelta(days=1)) == 0


# --- the command on a change -------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
found = {name: value for name, value in os.environ.items() if name.startswith("CELERY_FLEET")}
json.dump({"environ": found, "stdin": json.load(sys.stdin)}, open(sys.argv[1], "w"))
"""


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Write a result and report the change, as one run of the unit does."""
    monkeypatch.setenv("INVOCATION_ID", "this")

    def change(previous: str, state: str, argv: list[str], **more: Any) -> int:
        setup = read(tmp_path, on_change=argv)
        result = health_result.compose(
            app="shop",
            host="worker1",
            interval=300,
            findings={"a": Finding(state, "of a")},
            last={}
            if previous == UNKNOWN
            else {"state": previous, "checks": {"a": {"state": previous}}},
            checked=health_result.moment(),
            seconds=0.1,
            invocation="this",
        )
        health_result.write(tmp_path / "shop.json", result)
        return health.tell(setup, tmp_path, **more)

    return change


@pytest.mark.parametrize(
    ("previous", "state", "told"),
    [
        (UNKNOWN, GOOD, False),
        (UNKNOWN, WARNING, True),
        (UNKNOWN, BAD, True),
        (GOOD, GOOD, False),
        (GOOD, BAD, True),
        (BAD, BAD, False),
        (BAD, WARNING, True),
        (BAD, GOOD, True),
    ],
)
def test_a_change_runs_the_command(
    tmp_path: Path, changing: Callable[..., int], previous: str, state: str, told: bool
) -> None:
    out = tmp_path / "told.json"
    assert changing(previous, state, [sys.executable, "-c", SCRIPT, str(out)]) == 0
    assert out.exists() is told
    if told:
        found = json.loads(out.read_text())
        assert found["environ"] == {
            "CELERY_FLEET_APP": "shop",
            "CELERY_FLEET_HOST": "worker1",
            "CELERY_FLEET_HEALTH": str(tmp_path / "shop.json"),
            "CELERY_FLEET_HEALTH_STATE": state,
            "CELERY_FLEET_HEALTH_PREVIOUS": previous,
        }
        assert found["stdin"]["checks"]["a"]["text"] == "of a"


@pytest.mark.parametrize(
    ("was", "state", "told"),
    [
        (GOOD, WARNING, True),
        (GOOD, BAD, True),
        (WARNING, BAD, True),
        (WARNING, WARNING, False),
        (BAD, WARNING, False),
        (BAD, GOOD, False),
        # The previous result did not have this check.
        (UNKNOWN, GOOD, False),
        (UNKNOWN, WARNING, True),
    ],
)
def test_a_check_that_gets_worse_runs_the_command_although_the_host_was_bad_before(
    tmp_path: Path,
    checks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    was: str,
    state: str,
    told: bool,
) -> None:
    found = {"disk": BAD, "dead_letters": was}
    checks(**{name: lambda _, name=name: Finding(found[name], f"of {name}") for name in found})
    out = tmp_path / "told.json"
    names = ["disk"] if was == UNKNOWN else ["disk", "dead_letters"]
    monkeypatch.setenv("INVOCATION_ID", "first")
    health.check(read(tmp_path, checks=names), tmp_path)

    found["dead_letters"] = state
    monkeypatch.setenv("INVOCATION_ID", "second")
    argv = [sys.executable, "-c", SCRIPT, str(out)]
    setup = read(tmp_path, checks=["disk", "dead_letters"], on_change=argv)
    health.check(setup, tmp_path)
    health.tell(setup, tmp_path)
    assert out.exists() is told
    if told:
        result = json.loads(out.read_text())["stdin"]
        assert (result["previous"], result["state"], result["worse"]) == (
            BAD,
            BAD,
            ["dead_letters"],
        )


def test_what_a_killed_check_could_not_see_is_reported_after_it(
    tmp_path: Path,
    checks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The host is bad all the time."""
    found = {"disk": BAD, "dead_letters": GOOD}
    checks(**{name: lambda _, name=name: Finding(found[name], f"of {name}") for name in found})
    told = tmp_path / "told"
    words = f"cat >> {told}"
    setup = read(tmp_path, checks=list(found), on_change=["/bin/sh", "-c", words])
    for invocation in ("first", "killed", "third", "fourth"):
        monkeypatch.setenv("INVOCATION_ID", invocation)
        monkeypatch.setenv("SERVICE_RESULT", "timeout")
        if invocation == "killed":
            found["dead_letters"] = WARNING
        else:
            health.check(setup, tmp_path)
        health.tell(setup, tmp_path)
    assert [json.loads(line)["worse"] for line in told.read_text().splitlines()] == [
        ["disk"],
        ["health"],
        ["disk", "dead_letters"],
    ]
    assert "<3>health: bad: the check itself left no result: timeout" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/no/such"], "can't be run"),
        (["/bin/sh", "-c", "exit 3"], "/bin/sh ended with status 3"),
        (["/bin/sh", "-c", "kill -9 $$"], "was killed by signal 9"),
        (["/bin/sh", "-c", "sleep 60 & wait"], "took more than 0.5 s and was stopped"),
    ],
)
def test_a_command_that_fails_is_only_logged(
    changing: Callable[..., int], capfd: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    began = time.monotonic()
    assert changing(GOOD, BAD, argv, timeout=0.5 if "sleep" in argv[-1] else 60) == 0
    assert time.monotonic() - began < 10
    assert said in capfd.readouterr().out


def test_a_check_that_was_killed_is_bad(
    tmp_path: Path, changing: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "told.json"
    changing(UNKNOWN, GOOD, [sys.executable, "-c", SCRIPT, str(out)])
    # systemd runs the same unit again, and has ended the check.
    monkeypatch.setenv("INVOCATION_ID", "next")
    monkeypatch.setenv("SERVICE_RESULT", "timeout")
    argv = [sys.executable, "-c", SCRIPT, str(out)]
    health.tell(read(tmp_path, on_change=argv), tmp_path)
    found = json.loads((tmp_path / "shop.json").read_text())
    assert (found["state"], found["previous"]) == (BAD, GOOD)
    assert found["checks"]["health"]["text"] == "the check itself left no result: timeout"
    assert json.loads(out.read_text())["environ"]["CELERY_FLEET_HEALTH_STATE"] == BAD


@pytest.mark.parametrize(
    ("result", "code", "status", "manager", "told"),
    [
        # Stopped, also with SuccessExitStatus=SIGTERM in a drop-in.
        ("signal", "killed", "TERM", "running", False),
        ("success", "killed", "TERM", "degraded", False),
        # On a host that shuts down, systemd also kills a check that does not end.
        ("timeout", "killed", "KILL", "stopping", False),
        ("timeout", "killed", "TERM", "running", True),
        ("oom-kill", "killed", "KILL", "running", True),
        ("signal", "killed", "KILL", "running", True),
        ("signal", "killed", "SEGV", "running", True),
        ("exit-code", "exited", "2", "no answer", True),
    ],
)
def test_only_a_check_that_was_not_stopped_is_bad_without_a_result(
    tmp_path: Path,
    changing: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    result: str,
    code: str,
    status: str,
    manager: str,
    told: bool,
) -> None:
    fake = tmp_path / "systemctl"
    fake.write_text(f"#!/bin/sh\necho {manager}\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(systemctl, "SYSTEMCTL", str(fake))
    out, path = tmp_path / "told.json", tmp_path / "shop.json"
    argv = [sys.executable, "-c", SCRIPT, str(out)]
    changing(UNKNOWN, GOOD, argv)
    before = path.read_text()
    ended = {"SERVICE_RESULT": result, "EXIT_CODE": code, "EXIT_STATUS": status}
    for name, value in {"INVOCATION_ID": "next", **ended}.items():
        monkeypatch.setenv(name, value)
    assert health.tell(read(tmp_path, on_change=argv), tmp_path) == 0
    assert (out.exists(), path.read_text() != before) == (told, told)


def test_a_result_from_before_a_shutdown_is_still_reported(
    tmp_path: Path, changing: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemctl, "host_shuts_down", lambda: True)
    out = tmp_path / "told.json"
    changing(GOOD, BAD, [sys.executable, "-c", SCRIPT, str(out)])
    assert out.exists(), "the next check would see no change"


@pytest.mark.parametrize(("error", "before"), [(errno.EROFS, GOOD), (errno.ENOSPC, UNKNOWN)])
def test_a_change_is_reported_once_if_no_result_can_be_written(
    tmp_path: Path,
    checks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    before: str,
) -> None:
    """On a full disk the previous result is deleted to make room, so the state before is unknown."""
    checks(a=lambda setup: Finding(GOOD, ""))
    state, told = tmp_path / "state", tmp_path / "told"
    state.mkdir()
    words = f"echo $CELERY_FLEET_HEALTH_PREVIOUS to $CELERY_FLEET_HEALTH_STATE >> {told}"
    setup = read(tmp_path, checks=["a"], on_change=["/bin/sh", "-c", words])
    replace, writable = json_file.replace_bytes, True

    def put(path: Path, *args: Any, **options: Any) -> None:
        if path.parent == state and not writable:
            raise OSError(error, os.strerror(error))
        replace(path, *args, **options)

    monkeypatch.setattr(json_file, "replace_bytes", put)
    for invocation in "abcdefg":
        writable = invocation not in "cde"
        monkeypatch.setenv("INVOCATION_ID", invocation)
        health.check(setup, state)
        health.tell(setup, state)
    assert told.read_text().splitlines() == [f"{before} to bad", "bad to good"]
    assert not [*(tmp_path / "run").iterdir()]


# --- as systemd runs it ------------------------------------------------------------------------------


def run_script(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/python3", "-S", "-I", str(SOURCE / "celery_fleet/health/program.py"), *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )


def test_it_only_needs_the_systems_python() -> None:
    done = run_script("check", "no-such-app")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith(
        "<3>health can't be checked: /etc/celery-fleet/no-such-app/health.json can't be read"
    )
    done = run_script("look")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "celery_fleet: usage: program.py check|tell APP\n"
