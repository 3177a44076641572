"""The tasks of the queue `analytics`. services.py does the work; this file says how Celery runs it.

A day is a text such as 2026-11-20, in UTC; without one it is yesterday, which is over at midnight, when beat asks.
"""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.utils.log import get_task_logger
from django.utils import timezone

from analytics import services
from core.running import RETRY, day_of

logger = get_task_logger(__name__)


@shared_task(**RETRY)
def generate_daily_reports(day: str | None = None) -> dict[str, Any]:
    """Make the report of a day, and have the three others of that day made."""
    # Written out from here on: what is sent now may run after midnight.
    of = day_of(day).isoformat()
    services.daily(day_of(of), timezone.now())
    others = (
        generate_supplier_performance_report,
        generate_marketplace_performance_report,
        calculate_profitability_metrics,
    )
    for other in others:
        other.delay(day=of)
    return {"day": of, "sent": len(others)}


@shared_task(**RETRY)
def generate_supplier_performance_report(
    supplier_id: int | None = None, day: str | None = None
) -> dict[str, Any]:
    """Make the report of a day for one supplier, or for each."""
    of = day_of(day)
    count = services.supplier_performance(supplier_id, of, timezone.now())
    return {"day": of.isoformat(), "suppliers": count}


@shared_task(**RETRY)
def generate_marketplace_performance_report(
    marketplace_id: int | None = None, day: str | None = None
) -> dict[str, Any]:
    """Make the report of a day for one marketplace, or for each."""
    of = day_of(day)
    count = services.marketplace_performance(marketplace_id, of, timezone.now())
    return {"day": of.isoformat(), "marketplaces": count}


@shared_task(**RETRY)
def calculate_profitability_metrics(day: str | None = None) -> dict[str, Any]:
    """Calculate what a day's sales of each product left."""
    of = day_of(day)
    done = services.profitability(of, timezone.now())
    logger.info("%s: %s", of, done)
    return {"day": of.isoformat(), **done}
