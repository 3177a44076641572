"""What hosts answer, by a file, and what they were told; for the stubs beside this file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def answers() -> dict[str, Any]:
    """What the test has hosts say."""
    found: dict[str, Any] = json.loads(Path(os.environ["REMOVAL_ANSWERS"]).read_text())
    return found


def told(*words: str) -> None:
    """One line for each thing that a host was told; hosts write side by side."""
    with open(os.environ["REMOVAL_TOLD"], "a") as stream:
        stream.write(" ".join(words) + "\n")
