"""kombu 5.4, where it is not as 5.5. Checked in the source of kombu 5.4.2."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from celery_fleet.compat.minors.kombu55 import *  # noqa: F403  # all that is not said otherwise below


def pooled(pool: Any) -> Any:
    """A connection of redis-py's pool, which up to 5.2 wants to know a command; kombu itself always names one."""
    wanted = signature(pool.get_connection).parameters.values()
    named = [one for one in wanted if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
    return (
        pool.get_connection("_")
        if named and named[0].default is Parameter.empty
        else pool.get_connection()
    )
