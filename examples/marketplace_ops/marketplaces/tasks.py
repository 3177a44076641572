"""The tasks of the queue `marketplaces`. services.py does the work; this file says how Celery runs it."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.utils.log import get_task_logger
from django.utils import timezone

from core.running import ASKS_OTHERS, RETRY
from marketplaces import services

logger = get_task_logger(__name__)


@shared_task(**RETRY)
def sync_all_marketplace_orders() -> dict[str, int]:
    """Have the orders of each active marketplace taken in, by a separate task."""
    marketplaces = services.active_marketplaces()
    for marketplace_id in marketplaces:
        sync_marketplace_orders.delay(marketplace_id)
    return {"sent": len(marketplaces)}


@shared_task(**RETRY)
def sync_all_marketplace_inventory() -> dict[str, int]:
    """Tell every active marketplace the stock of what it lists."""
    marketplaces = services.active_marketplaces()
    changed = sum(services.sync_inventory(each, timezone.now()) for each in marketplaces)
    logger.info("%d listings of %d marketplaces", changed, len(marketplaces))
    return {"marketplaces": len(marketplaces), "changed": changed}


@shared_task(**ASKS_OTHERS)
def sync_marketplace_listings(marketplace_id: int) -> dict[str, Any]:
    """Bring our listings on one marketplace to what it shows."""
    return services.sync_listings(marketplace_id, timezone.now())


@shared_task(**ASKS_OTHERS)
def sync_marketplace_orders(marketplace_id: int) -> dict[str, Any]:
    """Take in the orders of one marketplace that are new."""
    done = services.sync_orders(marketplace_id, timezone.now())
    if done["waiting"]:
        logger.warning("%(waiting)d orders of %(marketplace)s have unknown products", done)
    return done


@shared_task(**ASKS_OTHERS)
def fulfill_marketplace_order(order_id: int, tracking_number: str = "") -> dict[str, Any]:
    """Mark one order as fulfilled; the first tracking number stays."""
    done = services.fulfil(order_id, tracking_number, timezone.now())
    return {"order": order_id, "fulfilled": done}
