"""Differences of Celery 5.4 from 5.5, checked in the source of celery 5.4.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_fleet.compat.minors.celery55 import *  # noqa: F403  # everything that is not overridden below


def safe_to_retry(backend: Any) -> Callable[[Exception], bool]:
    """Return a function that says, for an error, whether to try again to store a result.

    Celery 5.4 answers no for every error of Redis, so ``result_backend_always_retry`` has no effect there.
    """
    return lambda exc: isinstance(exc, backend.connection_errors)
