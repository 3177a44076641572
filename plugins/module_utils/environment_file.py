"""The text of an environment file for systemd."""

from __future__ import annotations

import re
from typing import Any

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def environment_text(value: Any) -> str:
    """A value of YAML as an environment variable has it; null is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
