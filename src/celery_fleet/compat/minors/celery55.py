# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Differences of Celery 5.5 from 5.6, checked in the source of celery 5.5.3."""

from __future__ import annotations

from typing import Any

from celery.app import trace

from celery_fleet.compat.minors import celery56
from celery_fleet.compat.minors.celery56 import *  # noqa: F403  # everything that is not overridden below


def forget_timers(consumer: Any) -> None:
    """Cancel the timer entries of a lost connection; Celery does this in Consumer.on_close, which may be skipped."""
    if consumer.hub is not None:
        consumer.hub.timer.clear()
    celery56.forget_timers(consumer)


def raise_from_tracer(kind: type[Exception]) -> None:
    """Have Celery's tracer raise errors of a kind, so that the worker handles them as with later minors.

    If one comes from the sending of a callback, Celery 5.5 would store a failure (celery/app/trace.py).
    """
    report = trace._signal_internal_error

    def raise_or_report(
        task: Any, uuid: Any, args: Any, kwargs: Any, request: Any, exc: Exception
    ) -> None:
        if isinstance(exc, kind):
            raise exc
        report(task, uuid, args, kwargs, request, exc)

    trace._signal_internal_error = raise_or_report
