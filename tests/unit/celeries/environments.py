"""Create virtualenvs with the minors of Celery that the runtime supports, and with the Pythons that hosts have."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from scripts.testhosts.fleet import cache_directory, pip_cache

#: The Pythons of Debian 12 and Debian 13.
PYTHONS = ("3.11", "3.13")

#: Packages that the tests in these virtualenvs also need; gevent is for the pool of greenlets.
TESTS = ("pytest>=9,<10", "pytest-timeout>=2,<3", "gevent>=26,<27")

#: Seconds that pip may take.
PATIENCE = 600


@dataclass(frozen=True)
class Environment:
    """A Python, and the packages for it."""

    python: str
    celery: str
    requirements: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.python}-{self.celery}"


def wanted() -> list[Environment]:
    """Return all environments: each Celery with its own kombu, and one with the newest that it runs with."""
    own = {
        # The redis-py of that time, to test older ones, because only redis-py 8 uses RESP3.
        "5.4": ("celery==5.4.*", "kombu==5.4.*", "redis==5.2.*"),
        "5.5": ("celery[redis]==5.5.*", "kombu[redis]==5.5.*"),
        "5.6": ("celery[redis]==5.6.*", "kombu[redis]==5.6.*"),
        "5.7": ("celery[redis]==5.7.*",),
    }
    found = [Environment("3.11", celery, packages) for celery, packages in own.items()]
    # What pip installs by default: kombu 5.7, with redis-py 8.
    newest = {**own, "5.6": ("celery[redis]==5.6.*",)}
    # Celery 5.4 supports no Python after 3.12.
    found += [Environment("3.13", celery, newest[celery]) for celery in ("5.5", "5.6", "5.7")]
    return found


@cache
def interpreter(python: str) -> str | None:
    """Return the path of an installed Python, or None."""
    name = shutil.which(f"python{python}")
    if name is None:
        return None
    # pyenv's shims ask which Python is meant; in Debian ensurepip is a separate package.
    done = subprocess.run(
        [name, "-c", "import ensurepip, sys, venv; print(sys.executable)"],
        env={**os.environ, "PYENV_VERSION": python},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or None


def here() -> list[Environment]:
    """Return the environments whose Python this machine has."""
    return [one for one in wanted() if interpreter(one.python) is not None]


def missing() -> list[str]:
    """Return what is not tested on this machine, a line for each Python."""
    lines = []
    for python in PYTHONS:
        minors = [one.celery for one in wanted() if one.python == python]
        if interpreter(python) is None:
            lines.append(
                f"Python {python} is not on this machine (no python{python} with venv and pip on PATH), so Celery"
                f" {', '.join(minors)} was not tried with it; install python{python} and python{python}-venv"
            )
    return lines


def made(environment: Environment) -> Path:
    """Return the Python of an environment, and create the environment if needed; many processes may do so at once."""
    base = interpreter(environment.python)
    assert base is not None
    packages = (*environment.requirements, *TESTS)
    digest = hashlib.sha256("\n".join((base, *packages)).encode()).hexdigest()[:8]
    root = cache_directory() / "celeries"
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"{environment}-{digest}"
    with (root / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "made").exists():
            for argv in (
                [base, "-m", "venv", "--clear", str(path)],
                [
                    *(str(path / "bin/python"), "-m", "pip", "install", "--quiet"),
                    *("--disable-pip-version-check", "--cache-dir", str(pip_cache()), *packages),
                ],
            ):
                done = subprocess.run(
                    argv,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
                if done.returncode:
                    pytest.fail(f"{environment}: no virtualenv; pip says:\n{done.stdout[-2000:]}")
            (path / "made").touch()
    return path / "bin/python"
