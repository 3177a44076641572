"""Run a Django example in a separate process, because Django and Celery are global state."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def python_in(directory: Path) -> Run:
    """Return a function that runs Python in a directory, with only the given environment."""

    def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=directory,
            env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return python


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


def skipped(output: str) -> set[str]:
    """Return the names of the skipped tests in the output of `manage.py test --verbosity 2`."""
    return set(re.findall(r"^\w+ \(([\w.]+)\)(?:\n.*)? \.\.\. skipped", output, re.MULTILINE))
