"""Reads sizes in the notation of redis.conf."""

from __future__ import annotations

import re
from typing import Final

REDIS_SIZE: Final = re.compile(r"([0-9]+)(b|kb?|mb?|gb?)?", re.IGNORECASE)

_REDIS_UNITS: Final = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 2**10,
    "m": 10**6,
    "mb": 2**20,
    "g": 10**9,
    "gb": 2**30,
}


def redis_bytes(value: object) -> int:
    """Return the bytes of a maxmemory; 0 if it is not a size."""
    found = REDIS_SIZE.fullmatch(str(value)) if isinstance(value, (str, int)) else None
    return int(found[1]) * _REDIS_UNITS[(found[2] or "").lower()] if found else 0
