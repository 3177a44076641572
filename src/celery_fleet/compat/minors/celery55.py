"""Differences of Celery 5.5 from 5.6, checked in the source of celery 5.5.3."""

from __future__ import annotations

from typing import Any

from celery_fleet.compat.minors.celery56 import *  # noqa: F403  # everything that is not overridden below


def keep_time_limits(_consumer: Any) -> None:
    """Do nothing: Celery keeps all timer entries, including those of the lost connection."""
