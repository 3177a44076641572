"""Wait for something, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(what: str, seconds: float, look: Callable[[], T], pause: float = 0.5) -> T:
    """Return the first true answer of `look`; after `seconds`, AssertionError with `what` and the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what} (last seen: {seen!r})")
        time.sleep(pause)
