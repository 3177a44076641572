"""Differences of Celery 5.5 from 5.6, checked in the source of celery 5.5.3."""

from __future__ import annotations

from typing import Any

from celery_fleet.compat.minors import celery56
from celery_fleet.compat.minors.celery56 import *  # noqa: F403  # everything that is not overridden below


def forget_timers(consumer: Any) -> None:
    """Cancel the timer entries of a lost connection; Celery does this in Consumer.on_close, which may be skipped."""
    if consumer.hub is not None:
        consumer.hub.timer.clear()
    celery56.forget_timers(consumer)
