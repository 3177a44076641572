"""Lists what a Redis that the fleet does not run can't do or does not tell, as far as the fleet can do without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def limits(kind: str, told: Mapping[str, Any]) -> list[str]:
    """Return the limits of a server in words; there are none for a result store, which may evict and forget.

    Args:
        kind: `broker` or `results`.
        told: What it has answered, as `plugin_utils/scripts/redis_service.py` describes it; empty if it was not asked.
    """
    if kind != "broker" or not told:
        return []
    found = []
    if any(name.startswith("CLIENT") for name in told.get("refused") or ()):
        found.append("client tracking is not allowed, so idle workers ask more often")
    if not told.get("policy"):
        found.append("it doesn't tell its maxmemory-policy, which has to be noeviction")
    if told.get("aof") == "0":
        found.append("it keeps no append-only file, so tasks may be lost when it restarts")
    return found
