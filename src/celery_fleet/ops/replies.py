"""Collect the workers' replies to remote control."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from celery_fleet.common.errors import FleetError, one_line

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


def told(app: Any, command: str, awaited: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Send a command to all workers; return their replies by node, of which ``error`` is Celery's own."""
    with collecting(awaited) as (found, collect):
        app.control.broadcast(command, reply=True, timeout=WAIT, callback=collect)
    return {
        node: dict(reply) if isinstance(reply, Mapping) else {"error": one_line(reply)}
        for node, reply in found.items()
    }


def redis_of(connection: Any, what: str) -> Any:
    """Return the client of the broker, on which ``what`` is kept.

    Raises:
        FleetError: The broker is not Redis.
    """
    if connection.transport.driver_type != "redis":
        raise FleetError(f"{what} are only kept in Redis, and this broker is another one")
    return connection.default_channel.client
