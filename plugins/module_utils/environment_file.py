"""Values in environment files for systemd."""

from __future__ import annotations

import re
from typing import Any

# systemd silently ignores any other name.
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def environment_text(value: Any) -> str:
    """Return a YAML value as the text of an environment variable; null is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
