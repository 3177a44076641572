"""Run a program in the release's Python as the application's user."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery_fleet.health.setup import CheckError, Setup


def as_user(name: str) -> dict[str, Any]:
    """Return options of subprocess that run a child as another user, without root's groups."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def apart(user: str, runtime: Path, **environment: str) -> dict[str, Any]:
    """Return options of subprocess for the release's Python: the application's user, our runtime, nothing of root's."""
    return {
        "cwd": "/",
        "env": {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(runtime),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        # It runs another user's code, which could type on root's terminal (TIOCSTI) if it had it.
        "start_new_session": True,
        **as_user(user),
    }


def in_release(
    setup: Setup, module: str, request: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """Run one of our modules in the release's Python, as the application's user, and return its answer.

    Args:
        setup: The host's setup.
        module: Name of the module.
        request: What the program reads from its standard input, as JSON.
        timeout: Seconds.

    Raises:
        CheckError: It did not answer.
    """
    python = setup.release / "venv" / "bin" / "python"
    try:
        done = subprocess.run(
            [str(python), "-m", module],
            # It has secrets, so it goes through a pipe.
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            **apart(setup.user, setup.runtime, HOME=_home(setup.user)),
        )
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        if isinstance(answer, dict):
            return answer
        raise ValueError
    except subprocess.TimeoutExpired:
        raise CheckError(f"the release's Python did not answer within {timeout:g} s") from None
    except (OSError, KeyError) as error:
        raise CheckError(f"{python} can't be run: {error}") from None
    except (ValueError, IndexError):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CheckError(
            f"the release's Python ended with status {done.returncode} and no answer: {said}"
        ) from None


def _home(user: str) -> str:
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return "/"
