"""Run a command of a release on this host: ``python3 -S -I release_command.py`` with JSON on stdin, as root.

    {"do": "start", "app", "name", "release", "mark", "resumed", "argv", "timeout", "umask"}
    {"do": "wait", "app", "name", "mark", "argv", "seconds"}

``start`` has systemd run the command in its own unit, so it goes on if the run that asked is killed. It starts nothing
if that unit is active. If an earlier run started the command (``resumed``) and it has succeeded, that result counts. In
the unit, :mod:`celery_fleet.system.exec` runs the command as the application's user, with its environment and the
producer's credentials, and the result is written to a file.
``wait`` waits for the end, but not longer than so many seconds. Both print one line of JSON::

    {"state": "started" | "running" | "other" | "gone" | "ended" | "refused", "status", "seconds", "log", "tail"}

``other``: a command of this name is running for another ``mark`` (an earlier release's) or with another command line.
``gone``: the command is not running and has left no result, as after a boot. Only the standard library, and no import
of this package.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUN = Path("/run/celery-fleet/commands")
STATE = Path("/var/lib/celery-fleet/commands")
LOGS = Path("/var/log/celery-fleet")
PYTHON = "/usr/bin/python3"

#: Number of logs to keep, one for each run.
KEPT = 50

#: Seconds that exec.py gets in addition to the command's timeout, to stop the command and report it.
SLACK = 60.0

#: Number of lines and characters of a log that are shown.
LINES, CHARACTERS = 20, 4000

LOOK = 0.2
RUNNING = frozenset({"active", "activating", "deactivating", "reloading", "refreshing"})


class CommandUnit:
    """The unit of a release command of an application, and its files."""

    def __init__(self, app: str, name: str) -> None:
        # Names contain no dot, so no other application's unit can have the same name.
        self.unit = f"{app}-command.{name}.service"
        self.request = RUN / app / f"{name}.json"
        self.ended = STATE / app / "ended" / f"{name}.json"
        self.logs = LOGS / app / "commands"

    def inner(self, attempt: str) -> str:
        """Return the unit of the command itself, which is different for each attempt because exec.py requires it."""
        return f"{self.unit.removesuffix('.service')}.{attempt}.service"


def read(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, content: str) -> None:
    """Write a file that only root can read, atomically, and sync it to disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def active(command: CommandUnit) -> bool:
    """Return whether the command runs: its own unit or that of its supervisor is active."""
    attempt = read(command.request).get("attempt")
    units = [command.unit, *([command.inner(str(attempt))] if attempt else [])]
    shown = subprocess.run(
        ["systemctl", "show", "--property=ActiveState", "--value", *units],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return not RUNNING.isdisjoint(shown.stdout.split())


def state_of(command: CommandUnit, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the state of the command that was asked for."""
    # This order matters: a command that ends first writes its result, and then its unit becomes inactive.
    if active(command):
        return {"state": "running" if matches(read(command.request), asked) else "other"}
    ended = read(command.ended)
    if not matches(ended, asked):
        return {"state": "gone"}
    # A run that prints all answers should not print the command line.
    del ended["argv"]
    return {**ended, "state": "ended", "tail": tail(Path(str(ended.get("log", ""))))}


def matches(noted: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Return whether a file is about the command that was asked for."""
    return all(noted.get(key) == asked[key] for key in ("mark", "argv"))


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - CHARACTERS))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-LINES:])


def start(asked: dict[str, Any]) -> dict[str, Any]:
    """Start the command, unless it is running or an earlier run's has succeeded."""
    command = CommandUnit(asked["app"], asked["name"])
    seen = state_of(command, asked)
    succeeded = seen["state"] == "ended" and seen["status"] == 0 and asked["resumed"]
    if succeeded or seen["state"] in ("running", "other"):
        return seen
    command.ended.unlink(missing_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    attempt = secrets.token_hex(4)
    # Named by time, so that the oldest is removed first; and by attempt, since two can start in one second.
    log = command.logs / f"{stamp}-{asked['release']}-{asked['name']}-{attempt}.log"
    keys = ("app", "name", "release", "mark", "argv", "timeout", "umask")
    request = {key: asked[key] for key in keys}
    write(command.request, json.dumps({**request, "attempt": attempt, "log": str(log)}))
    argv = [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={command.unit}",
        "--property=Type=exec",
        f"--description={asked['app']}: {asked['name']} of release {asked['release']}",
        *(PYTHON, "-S", "-I", os.path.abspath(__file__), "supervise", str(command.request)),
    ]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and not active(command):
        words = " ".join((done.stderr or done.stdout).split())
        return {"state": "refused", "error": f"systemd-run: {words}"}
    return {"state": "started"}


def wait(asked: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of the command, or of the other one that is in its way."""
    command = CommandUnit(asked["app"], asked["name"])
    deadline = time.monotonic() + float(asked["seconds"])
    while True:
        seen = state_of(command, asked)
        if seen["state"] not in ("running", "other") or time.monotonic() > deadline:
            return seen
        time.sleep(LOOK)


def supervise(path: Path) -> int:
    """Run the command of a request to its end and record the outcome."""
    asked = read(path)
    command = CommandUnit(asked["app"], asked["name"])
    log = Path(asked["log"])
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    forget(log.parent)
    inner = command.inner(asked["attempt"])
    began = time.time()
    argv = [
        *(PYTHON, "-S", "-I", str(Path(__file__).with_name("exec.py"))),
        *("--app", asked["app"], "--as", "producer", "--release", asked["release"]),
        *("--timeout", f"{float(asked['timeout']):.15g}", "--unit", inner),
        *("--umask", asked["umask"]),
        *("--output", str(log), "--", *asked["argv"]),
    ]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as stream:
        try:
            status = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                timeout=float(asked["timeout"]) + SLACK,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
            with contextlib.suppress(OSError):
                subprocess.run(["systemctl", "stop", inner], check=False)
    outcome = {
        "mark": asked["mark"],
        "argv": asked["argv"],
        "release": asked["release"],
        "status": status,
        "seconds": round(time.time() - began, 1),
        "log": str(log),
    }
    write(command.ended, json.dumps(outcome))
    return status


def forget(logs: Path) -> None:
    """Remove the oldest logs."""
    for path in sorted(logs.glob("*.log"))[: -KEPT + 1]:
        with contextlib.suppress(OSError):
            path.unlink()


def main(argv: list[str]) -> int:
    """Run as the module's docstring describes."""
    os.umask(0o077)
    if argv[:1] == ["supervise"]:
        return supervise(Path(argv[1]))
    asked = json.load(sys.stdin)
    print(json.dumps(start(asked) if asked["do"] == "start" else wait(asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
