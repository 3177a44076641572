from __future__ import annotations

import json
import subprocess
from pathlib import Path

from celery_fleet.system import ended


def end(path: Path, result: str) -> subprocess.CompletedProcess[str]:
    """Run the program as the unit does."""
    argv = ["/usr/bin/env", "-i", "/usr/bin/python3", "-S", "-I", ended.__file__, str(path), result]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_each_end_of_a_unit_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "shop-beat.service.json"
    for result in ("success", "watchdog", "success"):
        done = end(path, result)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = json.loads(path.read_text())
    assert found == {"format": 1, "results": {"success": 2, "watchdog": 1}}


def test_an_end_that_cannot_be_counted_does_not_fail_the_unit(tmp_path: Path) -> None:
    done = end(tmp_path / "none/shop-beat.service.json", "success")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("<4>the end of the process is not counted: ")
