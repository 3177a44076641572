"""What the web process asks of broker and result store; either of them away is one error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from celery.exceptions import BackendGetMetaError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.celery_app import celery_app
from app.tasks import recompute_all_discounts

T = TypeVar("T")

# Passed with each call; otherwise a site's patience for publishing would become that of an HTTP request.
PUBLISH_RETRY = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}


class Unavailable(Exception):
    """Broker or result store is away; what Celery raised is its cause."""


def send_recompute(days_threshold: int) -> str:
    """Have a worker recompute the discounts; gives the task's id."""

    def send() -> str:
        sent = recompute_all_discounts.apply_async(
            kwargs={"days_threshold": days_threshold}, retry_policy=PUBLISH_RETRY
        )
        return str(sent.id)

    # Celery only raises RuntimeError for the result store, which it also asks when it sends.
    return _asked(send, RuntimeError)


def outcome(task_id: str) -> tuple[str, Any]:
    """State and result in one look at the backend: in two, the task may have moved between them."""
    # A backend that is set to retry says so when it gives up.
    meta = _asked(lambda: celery_app.backend.get_task_meta(task_id), BackendGetMetaError)
    return meta["status"], meta["result"]


def _asked(call: Callable[[], T], away: type[Exception]) -> T:
    try:
        return call()
    except (OperationalError, RedisError, away) as error:
        raise Unavailable from error
