"""Run the example application in a separate process, because Django and Celery allow one application per process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3] / "examples" / "aiecommerce"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs Python in the project, only with the given environment and without writing caches."""
    directory = tmp_path_factory.mktemp("aiecommerce")

    def run_python(
        *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=PROJECT,
            env={
                "PYTHONDONTWRITEBYTECODE": "1",
                "DATABASE_URL": f"sqlite:///{directory}/db.sqlite3",
                "STATIC_ROOT": f"{directory}/static",
                **environment,
            },
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run_python
