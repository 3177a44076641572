"""Run a Django example in a separate process, because Django and Celery are global state.

The fixtures are for tests in a directory that is named after the example; its `conftest.py` imports them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def python_in(directory: Path) -> Run:
    """Return a function that runs Python in a directory, with only the given environment."""

    def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            **process_in(directory, arguments, environment),
            capture_output=True,
            timeout=300,
            check=False,
        )

    return python


def process_in(
    directory: Path, arguments: tuple[str, ...], environment: dict[str, str]
) -> dict[str, Any]:
    """Return the arguments for `subprocess` with which Python runs in a directory, with only the given environment."""
    return {
        "args": [sys.executable, "-W", "error", *arguments],
        "cwd": directory,
        "env": {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        "stdin": subprocess.DEVNULL,
        "text": True,
    }


def found_by(run: Run) -> Callable[..., dict[str, Any]]:
    """Return a function that runs code and returns what it stores in `found`."""

    def found(code: str, **environment: str) -> dict[str, Any]:
        done = run(
            "-c", f"import json\nfound = {{}}\n{code}\nprint(json.dumps(found))", **environment
        )
        assert done.returncode == 0, done.stderr
        content: dict[str, Any] = json.loads(done.stdout)
        return content

    return found


def environment_of(name: str) -> dict[str, str]:
    """Return what Flash Promos or Marketplace Ops needs except on a developer's machine; it connects to nothing."""
    return {
        "DATABASE_URL": f"postgresql://{name}:p%40ss@db.example.com:5433/{name}?sslmode=require&channel_binding=require",
        "DJANGO_SECRET_KEY": "not-a-real-key" * 5,
        "DJANGO_ALLOWED_HOSTS": "control1,192.0.2.4",
        "DJANGO_STATIC_ROOT": f"/var/lib/{name}/static",
    }


@pytest.fixture(scope="module")
def example(request: pytest.FixtureRequest) -> Path:
    return EXAMPLES / request.path.parent.name


@pytest.fixture(scope="module")
def run(example: Path) -> Run:
    return python_in(example)


@pytest.fixture(scope="module")
def read(run: Run) -> Callable[..., dict[str, Any]]:
    return found_by(run)


@pytest.fixture(scope="module")
def served(example: Path) -> dict[str, str]:
    return environment_of(example.name)
