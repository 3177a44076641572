"""Run a program in the release's Python as the application's user."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from celery_fleet.health.setup import CheckError


class ReleaseOnHost(Protocol):
    """An application's release on this host, and what it runs with."""

    @property
    def release(self) -> Path:
        """Return its directory."""

    @property
    def user(self) -> str:
        """Return the application's user."""

    @property
    def runtime(self) -> Path:
        """Return the directory of our package."""


def as_user(name: str) -> dict[str, Any]:
    """Return options of subprocess that run a child as another user, without root's groups."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def module_options(place: ReleaseOnHost, module: str) -> dict[str, Any]:
    """Return options of subprocess that run one of our modules in the release's Python, with nothing of root's.

    Raises:
        KeyError: There is no such user.
    """
    return {
        "args": [str(place.release / "venv" / "bin" / "python"), "-m", module],
        "cwd": "/",
        "env": {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": _home(place.user),
            "PYTHONPATH": str(place.runtime),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        "text": True,
        "errors": "replace",
        # It runs another user's code, which could type on root's terminal (TIOCSTI) if it had it.
        "start_new_session": True,
        **as_user(place.user),
    }


def run_module(
    place: ReleaseOnHost, module: str, request: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """Run one of our modules in the release's Python, as the application's user, and return its answer.

    Args:
        place: The release and its user.
        module: Name of the module.
        request: What the program reads from its standard input, as JSON.
        timeout: Seconds.

    Raises:
        CheckError: It did not answer.
    """
    what = "the release's Python"
    try:
        # The request has secrets, so it goes through a pipe.
        done = subprocess.run(
            **module_options(place, module),
            input=json.dumps(request),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckError(f"{what} did not answer within {timeout:g} s") from None
    except (OSError, KeyError) as error:
        raise CheckError(f"{what} can't be run: {error}; run site.yml again") from None
    return last_line(done, what)


def last_line(done: subprocess.CompletedProcess[str], what: str) -> dict[str, Any]:
    """Return a program's answer: the last line of its output, in JSON.

    Raises:
        CheckError: There is no answer; the text has the last line that it printed.
    """
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    except (ValueError, IndexError):
        pass
    said = (done.stderr or "").strip() or done.stdout.strip() or "it printed nothing"
    words = said.splitlines()[-1]
    raise CheckError(f"{what} ended with status {done.returncode} and no answer: {words}")


def _home(user: str) -> str:
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return "/"
