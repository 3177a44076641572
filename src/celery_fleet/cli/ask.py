"""Questions to the release's Python, each with a bound in time."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import BAD, CommandError, need_root
from celery_fleet.common.text import late
from celery_fleet.system.exec_request import TIMED_OUT

#: Seconds within which every command answers that does not run something of the operator's, where nobody says more.
BOUND = 10.0

#: Seconds of these that are left for ending whatever took too long.
MARGIN = 0.5

#: Seconds of these that the release's Python gets to start: its own answer then comes before the bound around all.
START = 2.0


class _OverdueError(Exception):
    pass


@contextmanager
def bounded(what: str, seconds: float = BOUND, said: float | None = None) -> Iterator[None]:
    """End whatever takes longer; within another bound the shorter of the two holds.

    Args:
        what: What takes so long, for a person.
        seconds: From now on.
        said: The bound as a person is told it, where a part of it is over already.

    Raises:
        CommandError: It did.
    """
    seconds = max(seconds, 0.001)
    began = time.monotonic()

    def overdue(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _OverdueError

    outer, _ = signal.getitimer(signal.ITIMER_REAL)
    if 0 < outer <= seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OverdueError:
        raise CommandError(f"{what}: {late(said or seconds)}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            left = outer - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))


def as_user(name: str) -> dict[str, Any]:
    """Options of subprocess that make a child another user's, without root's groups."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(name)
    group = grp.getgrgid(entry.pw_gid)
    return {"user": entry.pw_uid, "group": group.gr_gid, "extra_groups": []}


def question(application: Application, name: str, **request: Any) -> Any:
    """The answer to one of :data:`celery_fleet.ops.questions.QUESTIONS`, asked as the operator.

    Raises:
        CommandError: Nobody could be asked, with the reason.
    """
    settings = application.carried_settings()
    python = python_of(application)
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    timeout = round(max(1.0, (left or BOUND) - START), 1)
    text = json.dumps({"question": name, "settings": settings, "timeout": timeout, **request})
    try:
        done = subprocess.run(
            [str(python), "-m", "celery_fleet.ops.questions"],
            # The settings, with their password, travel by a pipe.
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout + 5,
            check=False,
            **apart(application),
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{python}: {late(timeout + 5)}") from None
    except PermissionError:
        raise need_root(python) from None
    except (OSError, KeyError) as error:
        raise CommandError(f"{python} can't be run: {error}; run site.yml again") from None
    answer = last_line(done, "the release's Python")
    if not answer.get("ok"):
        raise CommandError(str(answer.get("error") or "no answer"))
    return answer["answer"]


def python_of(application: Application) -> Path:
    """The release's own interpreter.

    Raises:
        CommandError: There is no release on this host.
    """
    return application.release / "venv" / "bin" / "python"


def apart(application: Application) -> dict[str, Any]:
    """Options of subprocess for the release's Python: the application's user, our runtime and nothing of root's."""
    return {
        "cwd": "/",
        "env": {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(application.runtime),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        # Another user's code, which could type on root's terminal (TIOCSTI) if it had it.
        "start_new_session": True,
        **as_user(application.user),
    }


def exec_command(application: Application, component: str, *words: str) -> list[str]:
    """The command line of :mod:`celery_fleet.system.exec` without the command itself."""
    script = application.runtime / "celery_fleet" / "system" / "exec.py"
    own = ["--app", application.name, "--as", component, *words]
    return ["/usr/bin/python3", "-S", "-I", str(script), *own]


def in_release(
    application: Application,
    component: str,
    command: Sequence[str],
    timeout: float,
    request: Mapping[str, Any] | None = None,
    errors: bool = False,
) -> Mapping[str, Any]:
    """The last line that a command prints in the application's environment, as JSON.

    Args:
        application: Whose.
        component: Whose credentials it has.
        command: Its words.
        timeout: Seconds after which it is ended.
        request: What it reads, as JSON: everybody on the host can see a command line.
        errors: Whether a person sees what it writes to standard error, while it writes.

    Raises:
        CommandError: It could not be run, or printed something else.
    """
    timeout = max(round(timeout, 1), 0.1)
    try:
        done = subprocess.run(
            [*exec_command(application, component, "--timeout", f"{timeout:.15g}"), "--", *command],
            # No request is an empty one: whoever reads it must not wait for the operator's terminal.
            input=json.dumps(request) if request is not None else "",
            stdout=subprocess.PIPE,
            stderr=None if errors else subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise CommandError(f"/usr/bin/python3 can't be run: {error.strerror}") from None
    if done.returncode == TIMED_OUT:
        if errors:
            # Which has been said already, in its own words.
            raise click.exceptions.Exit(BAD)
        raise CommandError(f"the application in its release: {late(timeout)}")
    return last_line(done, command[-1])


def last_line(done: subprocess.CompletedProcess[str], what: str) -> Mapping[str, Any]:
    """A program's answer: the last line of its output, in JSON.

    Raises:
        CommandError: It is none; with the program's last words.
    """
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    except (ValueError, IndexError):
        pass
    said = (done.stderr or "").strip() or done.stdout.strip() or "it said nothing"
    words = said.splitlines()[-1]
    prefix = "celery-fleet exec: "
    if words.startswith(prefix):
        raise CommandError(words.removeprefix(prefix))
    raise CommandError(f"{what} ended with {done.returncode} and no answer: {words}")


def exists(path: Path) -> bool:
    """Whether a file is there; also where it could not be read."""
    try:
        return path.exists()
    except PermissionError:
        raise need_root(path) from None
