"""Differences of kombu 5.4 from 5.5, checked in the source of kombu 5.4.2."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from celery_fleet.compat.minors.kombu55 import *  # noqa: F403  # everything that is not overridden below


def pooled(pool: Any) -> Any:
    """Return a connection of redis-py's pool, which up to 5.2 needs the name of a command; kombu always passes one."""
    wanted = signature(pool.get_connection).parameters.values()
    named = [one for one in wanted if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
    return (
        pool.get_connection("_")
        if named and named[0].default is Parameter.empty
        else pool.get_connection()
    )
