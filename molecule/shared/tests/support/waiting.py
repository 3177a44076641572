"""Wait for something, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    what: str,
    seconds: float,
    look: Callable[[], T],
    pause: float = 0.5,
    explain: Callable[[], str] | None = None,
) -> T:
    """Return the first true answer of `look`.

    After `seconds`, it raises AssertionError with `what`, the last answer and what `explain` says.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            more = "" if explain is None else f"\n{explain()}"
            raise AssertionError(f"not within {seconds:g} s: {what} (last seen: {seen!r}){more}")
        time.sleep(pause)
