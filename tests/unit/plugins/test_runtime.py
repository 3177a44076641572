"""The package that is copied to a host is complete, and has nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.plugins.loader import lookup_loader


@pytest.fixture
def runtime() -> dict[str, Any]:
    found: dict[str, Any] = lookup_loader.get("celery_fleet.core.runtime").run([])[0]
    return found


def test_the_operators_command_can_be_loaded_from_the_copied_package(
    runtime: dict[str, Any], tmp_path: Path
) -> None:
    for item in runtime["files"]:
        path = tmp_path / Path(item["dest"]).relative_to(runtime["directory"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(item["content"])
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from celery_fleet.cli import main; print(main.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "celery_fleet/cli/main.py")
