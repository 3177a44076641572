"""The tasks. services.py does the work; this file says how Celery runs it."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import Task, shared_task
from celery.utils.log import get_task_logger
from django.db import transaction
from django.utils import timezone

from promotions import services

# This logger's lines have the format of CELERY_WORKER_TASK_LOG_FORMAT: task and id in each.
logger = get_task_logger(__name__)


@shared_task
def check_active_promos() -> dict[str, int]:
    """Start the promotions whose time has come, and end those whose time is over."""
    with transaction.atomic():
        checked = services.check_promotions(timezone.now())
        for promotion_id in checked.expired:
            # Sent only once the others can see the new status. robust: a broker that is away is logged, and
            # the task does not fail for it after its work is done. (Django then wants a function's name,
            # which a partial has not.)
            transaction.on_commit(lambda key=promotion_id: robust_task.delay(key), robust=True)
    done = {
        "activated": len(checked.activated),
        "expired": len(checked.expired),
        "queued": checked.queued,
    }
    if any(done.values()):
        logger.info(
            "activated %(activated)d, expired %(expired)d, queued %(queued)d messages", done
        )
    return done


@shared_task
def cleanup_expired_promos() -> dict[str, int]:
    """Move the promotions that have been over for a day to the archive."""
    archived = _until_done(partial(services.archive_expired, timezone.now()))
    logger.info("archived %d promotions", archived)
    return {"archived": archived}


@shared_task(bind=True)
def process_notification_queue(self: Task[Any, Any]) -> dict[str, int]:
    """Send the messages that wait."""
    send = partial(services.send_notifications, timezone.now(), str(self.request.id or ""))
    sent = _until_done(send)
    if sent:
        logger.info("sent %d messages", sent)
    return {"sent": sent}


@shared_task(
    bind=True, autoretry_for=(Exception,), retry_kwargs={"max_retries": 3, "countdown": 60}
)
def robust_task(self: Task[Any, Any], promotion_id: int | None = None) -> dict[str, int]:
    """Count the messages of one promotion, or of all active ones, into their reports.

    After a failure it is tried again three times, a minute apart, even if the promotion does not exist.
    """
    logger.info("attempt %d", self.request.retries + 1)
    keys = services.active_promotions() if promotion_id is None else [promotion_id]
    for key in keys:
        services.count_messages(key, timezone.now())
    return {"counted": len(keys)}


def _until_done(batch: Any) -> int:
    """Call `batch` until it does less than a whole one; the sum."""
    total = 0
    while done := batch():
        total += done
        if done < services.BATCH:
            break
    return total
