"""kombu 5.4, where it is not as 5.5. Checked in the source of kombu 5.4.2."""

from __future__ import annotations

from typing import Any

from celery_fleet.minors.kombu55 import *  # noqa: F403  # all that is not said otherwise below


def pooled(pool: Any) -> Any:
    """A connection of redis-py's pool, as kombu asks for one."""
    return pool.get_connection("_")
