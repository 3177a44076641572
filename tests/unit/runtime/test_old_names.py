"""Names in this version's runtime that older control nodes call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "src"


def test_an_older_control_node_reaches_the_probe() -> None:
    """It uses the probe to pause workers before it goes back to its own version."""
    done = subprocess.run(
        [sys.executable, "-m", "celery_fleet.probe"],
        input="no request",
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith(
        "the request is damaged (JSONDecodeError: Expecting value: line 1"
    )
