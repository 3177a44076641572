"""Check the health of this host, without Celery. A systemd timer runs it as root, with the system's Python.

    /usr/bin/python3 -S -I program.py check APP     run the checks; ExecStart= of <app>-health.service
    /usr/bin/python3 -S -I program.py tell APP      run the command for a change; its ExecStopPost=

``/etc/celery-fleet/<app>/health.json`` says what to check, and has the thresholds. The checks run in parallel, each
with its own time limit, so one that hangs does not delay the others. The result goes to the file that
:mod:`celery_fleet.health.result` describes. The journal gets one line for each check with a new state, and one for the
overall state. The exit status is 1 if the state is bad, so that the unit shows as failed, and 2 if nothing could be
checked. Only the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # `python3 -I` runs this file without adding its directory to the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common import systemctl
from celery_fleet.common.redact import redact, redact_all
from celery_fleet.health import checks as health_checks
from celery_fleet.health import result as health_result
from celery_fleet.health import text as health_text
from celery_fleet.health.result import BAD, GOOD, UNKNOWN, WARNING, Finding
from celery_fleet.health.setup import CheckError, Setup

CONFIGURATION = Path("/etc/celery-fleet")
USAGE = "usage: program.py check|tell APP"

#: Seconds that the command for a change may take; the unit's TimeoutStopSec= is longer.
TELL = 30.0

#: Prefixes of lines from which the journal reads their levels (sd-daemon(3)).
_LEVELS = {GOOD: "<6>", WARNING: "<4>", BAD: "<3>"}

Checks = Mapping[str, tuple[Callable[[], Finding], float]]


def guarded(check: Callable[[], Finding]) -> Finding:
    """Run a check. If it raises an exception, the finding is bad, with the reason in one line."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001  # a check that fails is a finding; the others go on
        return Finding(BAD, health_text.reason(error))


def run(checks: Checks) -> dict[str, Finding]:
    """Run all checks in parallel. One that exceeds its time is bad."""
    found: dict[str, Finding] = {}

    def put(name: str, check: Callable[[], Finding]) -> None:
        found[name] = guarded(check)

    began = time.monotonic()
    threads = {
        name: threading.Thread(target=put, args=(name, check), daemon=True)
        for name, (check, _) in checks.items()
    }
    for thread in threads.values():
        thread.start()
    for name, (_, bound) in checks.items():
        threads[name].join(max(0.0, began + bound - time.monotonic()))
    return {
        name: found.get(name) or Finding(BAD, f"no answer within {bound:g} s")
        for name, (_, bound) in checks.items()
    }


def without(finding: Finding, secrets: Collection[str]) -> Finding:
    """Remove secrets from a finding."""
    text = redact(finding.text, secrets)
    return Finding(finding.state, text, redact_all(finding.value, secrets))


def lines(result: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """Return the lines for the journal: one for each check with a new state, and one for the overall state."""
    said = []
    for name, found in result["checks"].items():
        was = health_result.check_state(last, name)
        if found["state"] not in (was, GOOD) or (
            found["state"] == GOOD and was not in (GOOD, UNKNOWN)
        ):
            said.append(
                f"{_LEVELS[found['state']]}{name}: {was} -> {found['state']}: {found['text']}"
            )
    counts = [
        f"{number} {state}"
        for state in (BAD, WARNING, GOOD)
        if (number := sum(one["state"] == state for one in result["checks"].values()))
    ]
    worse = [
        f"{name}: {one['text']}"
        for state in (BAD, WARNING)
        for name, one in result["checks"].items()
        if one["state"] == state
    ]
    whole = f"health is {result['state']} ({', '.join(counts)})"
    said.append(_LEVELS[result["state"]] + "; ".join([whole, *worse]))
    return said


def check(setup: Setup, state: Path | None = None) -> int:
    """Run the checks, log and store the result, and return the exit status."""
    path = health_result.path_of(setup.app, state)
    last = last_of(setup, path)
    began, checked = time.monotonic(), health_result.moment()
    secrets: set[str] = set()
    try:
        secrets = setup.secrets()
    except (OSError, ValueError) as error:
        # A check that needs them reports this itself.
        print(f"<4>credentials can't be read: {error}; run site.yml", flush=True)
    found = run(
        {
            name: (partial(one, setup), bound)
            for name, (one, bound) in health_checks.CHECKS.items()
            if name in setup.checks
        }
    )
    result = health_result.compose(
        app=setup.app,
        host=setup.host,
        interval=setup.interval,
        findings={name: without(one, secrets) for name, one in found.items()},
        last=last,
        checked=checked,
        seconds=time.monotonic() - began,
        invocation=os.environ.get("INVOCATION_ID", ""),
    )
    for line in lines(result, last):
        print(line, flush=True)
    try:
        health_result.write(path, result)
    except OSError as error:
        print(f"<3>{path} can't be written: {error.strerror}", flush=True)
        return 1
    return 1 if result["state"] == BAD else 0


def last_of(setup: Setup, path: Path) -> dict[str, Any]:
    """Return the previous result, even if it could not be written; empty if there is none."""
    unwritten = health_result.unwritten_of(setup.app)
    return health_result.before(unwritten) or health_result.before(path)


def due(result: Mapping[str, Any]) -> bool:
    """Return whether to report a result: if the host's state has changed or a check got worse.

    Otherwise a host with a lasting warning would hide all later ones. A first result that is good is not reported.
    """
    change = (result["previous"], result["state"])
    return bool(result.get("worse")) or (change[0] != change[1] and change != (UNKNOWN, GOOD))


def was_stopped() -> bool:
    """Return whether a stop of the unit or a shutdown has ended the check, which says nothing about the host's health.

    A stop sends SIGTERM. So does systemd when the check takes too long, but then it sets the result to ``timeout``.
    """
    ended = (os.environ.get("EXIT_CODE"), os.environ.get("EXIT_STATUS"))
    by_signal = os.environ.get("SERVICE_RESULT") in ("signal", "success")
    return (by_signal and ended == ("killed", "TERM")) or systemctl.host_shuts_down()


def tell(setup: Setup, state: Path | None = None, timeout: float = TELL) -> int:
    """Run the user's command if the health has changed. Returns 0, so that the exit status of the check counts."""
    path = health_result.path_of(setup.app, state)
    unwritten = health_result.unwritten_of(setup.app)
    result = health_result.before(path)
    invocation = os.environ.get("INVOCATION_ID", "")
    if result and result.get("invocation") == invocation:
        unwritten.unlink(missing_ok=True)
    elif was_stopped():
        print("the check was stopped before it had a result; the previous one stays", flush=True)
        return 0
    else:
        # The check was killed, because of a timeout or for lack of memory, or it could not write its result.
        found = Finding(
            BAD,
            f"the check itself left no result: {os.environ.get('SERVICE_RESULT', 'no result')}",
        )
        print(f"{_LEVELS[BAD]}health: {found.state}: {found.text}", flush=True)
        result = health_result.compose(
            app=setup.app,
            host=setup.host,
            interval=setup.interval,
            findings={"health": found},
            last=last_of(setup, path),
            checked=health_result.moment(),
            seconds=0.0,
            invocation=invocation,
        )
        try:
            health_result.write(path, result)
            unwritten.unlink(missing_ok=True)
        except OSError as error:
            print(f"<3>{path} can't be written: {error.strerror}", flush=True)
            # /run is in memory, so this works if the disk is full or read-only.
            with contextlib.suppress(OSError):
                unwritten.parent.mkdir(mode=0o755, exist_ok=True)
                health_result.write(unwritten, result)
                path = unwritten
    if setup.on_change and due(result):
        trouble = call(setup, result, path, timeout)
        if trouble:
            print(f"<4>celery_health_on_change: {setup.on_change[0]} {trouble}", flush=True)
    return 0


def call(setup: Setup, result: Mapping[str, Any], path: Path, timeout: float) -> str:
    """Run the command with the result on its standard input. Returns why it failed, or nothing if it succeeded."""
    environ = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "CELERY_FLEET_APP": setup.app,
        "CELERY_FLEET_HOST": setup.host,
        "CELERY_FLEET_HEALTH": str(path),
        "CELERY_FLEET_HEALTH_STATE": str(result["state"]),
        "CELERY_FLEET_HEALTH_PREVIOUS": str(result["previous"]),
    }
    try:
        process = subprocess.Popen(
            setup.on_change,
            stdin=subprocess.PIPE,
            env=environ,
            cwd="/",
            text=True,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"can't be run: {error}"
    try:
        # The command need not read its input: communicate() ignores a broken pipe.
        process.communicate(json.dumps(result) + "\n", timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"took more than {timeout:g} s and was stopped"
    if process.returncode < 0:
        return f"was killed by signal {-process.returncode}"
    return f"ended with status {process.returncode}" if process.returncode else ""


def main(argv: Sequence[str]) -> int:
    """Run a command line and return its exit status. An error is one line."""
    verbs: Mapping[str, Callable[[Setup], int]] = {"check": check, "tell": tell}
    if len(argv) != 2 or argv[0] not in verbs:
        print(f"celery_fleet: {USAGE}", file=sys.stderr)
        return 2
    try:
        setup = health_checks.read(CONFIGURATION / argv[1] / "health.json")
    except CheckError as error:
        print(f"<3>health can't be checked: {error}", flush=True)
        return 2
    return verbs[argv[0]](setup)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # A check that hangs in a system call must not keep the process alive.
    os._exit(status)
