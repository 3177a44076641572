"""Fixtures of tests that build a release."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.release.place import PYTHON, Place


@pytest.fixture
def umask() -> Iterator[None]:
    """The module runs in a separate process and sets its umask; here that would outlive the test."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The command and options of each process that was started.

    Users other than root can build, too: they can't become another user or give away files, but don't have to.
    """
    run, found = subprocess.run, []

    def recorded(command: Any, **options: Any) -> Any:
        found.append({"command": command, **options})
        if os.geteuid() != 0:
            for name in ("user", "group", "extra_groups"):
                options.pop(name, None)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", recorded)
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "chown", lambda *_args, **_options: None)
    return found


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that the build's user can enter; pytest's own is closed to all but its owner."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made).resolve()


@pytest.fixture
def quick_python(tmp_path: Path) -> str:
    path = tmp_path / "quick-python"
    script = Path(__file__).with_name("quick_python.py")
    path.write_text(f"#!{PYTHON}\n{script.read_text()}")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def place(tmp_path: Path, quick_python: str) -> Place:
    return Place(tmp_path, quick_python)
