"""Celery 5.5, where it is not as 5.6. Checked in the source of celery 5.5.3."""

from __future__ import annotations

from typing import Any

from celery_fleet.compat.minors.celery56 import *  # noqa: F403  # all that is not said otherwise below


def keep_time_limits(_consumer: Any) -> None:
    """Nothing: Celery keeps the whole timer, the lost connection's part of it included."""
