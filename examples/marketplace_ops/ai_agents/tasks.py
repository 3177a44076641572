"""The tasks of the queue `ai_processing`. services.py does the work; this file says how Celery runs it."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.utils.log import get_task_logger
from django.utils import timezone

from ai_agents import services
from core.running import RETRY, before

logger = get_task_logger(__name__)


@shared_task(**RETRY)
def process_ai_task(ai_task_id: int) -> dict[str, Any]:
    """Have one task done by its agent."""
    done = services.process(ai_task_id, timezone.now())
    if done.error:
        logger.warning("AI task %d failed: %s", done.pk, done.error)
    return {"ai_task": done.pk, "status": str(done.status), "result": done.result}


@shared_task(**RETRY)
def analyze_product_descriptions(product_ids: list[int] | None = None) -> dict[str, int]:
    """Analyse the descriptions of these products, or of all; what was read before is not read again."""
    return {"analysed": services.analyse_descriptions(product_ids, timezone.now())}


@shared_task(**RETRY)
def generate_marketplace_listings(
    marketplace_id: int | None = None, product_ids: list[int] | None = None
) -> dict[str, int]:
    """Draft listings of these products, or of all, for one marketplace or each active one."""
    return {"drafts": services.draft_listings(marketplace_id, product_ids, timezone.now())}


@shared_task(**RETRY)
def analyze_customer_feedback() -> dict[str, int]:
    """Read what customers wrote and was not read yet."""
    total: dict[str, int] = {}
    while True:
        counts = services.analyse_feedback(timezone.now())
        total = {kind: total.get(kind, 0) + count for kind, count in counts.items()}
        if sum(counts.values()) < services.BATCH:
            return total


@shared_task(**RETRY)
def cleanup_ai_sessions(days: int = 30) -> dict[str, int]:
    """Delete chat sessions in which nothing was said for so many days."""
    return {"deleted": services.clean_up_sessions(before(days))}
