"""Collect the workers' replies to remote control."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

#: Seconds that workers get to answer.
WAIT = 2.0


class _AllThereError(Exception):
    """All expected workers have replied; ends the wait for more."""


@contextlib.contextmanager
def collecting(
    awaited: Iterable[str],
) -> Iterator[tuple[dict[str, Any], Callable[[Mapping[str, Any]], None]]]:
    """Yield a dictionary for replies by node, and a callback that fills it.

    The block ends as soon as all awaited nodes have replied. Celery's `limit` would also count an unexpected node, such
    as the second instance of a worker during its restart.
    """
    expected = set(awaited)
    found: dict[str, Any] = {}

    def collect(reply: Mapping[str, Any]) -> None:
        found.update(reply)
        if expected and expected.issubset(found):
            raise _AllThereError

    with contextlib.suppress(_AllThereError):
        yield found, collect
