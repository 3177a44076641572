"""Celery 5.4, where it is not as 5.5. Checked in the source of celery 5.4.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_fleet.compat.minors.celery55 import *  # noqa: F403  # all that is not said otherwise below


def safe_to_retry(backend: Any) -> Callable[[Exception], bool]:
    """What tells of an error whether a result may be stored again after it.

    Celery 5.4 says of every error of Redis that it may not, so that ``result_backend_always_retry`` has no effect.
    """
    return lambda exc: isinstance(exc, backend.connection_errors)
