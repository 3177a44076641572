"""The tasks of the queue `suppliers`. services.py does the work; this file says how Celery runs it."""

from __future__ import annotations

from typing import Any

from celery import Task, shared_task
from celery.utils.log import get_task_logger
from django.utils import timezone

from core.running import ASKS_OTHERS, RETRY, before
from suppliers import services

logger = get_task_logger(__name__)


@shared_task(**RETRY)
def sync_all_suppliers(force_full_sync: bool = False) -> dict[str, int]:
    """Have each active supplier synchronised by a separate task, so that one that is away does not delay the others."""
    suppliers = services.active_suppliers()
    for supplier_id in suppliers:
        sync_supplier_products.delay(supplier_id, force_full_sync=force_full_sync)
    logger.info("sent %d suppliers", len(suppliers))
    return {"sent": len(suppliers)}


@shared_task(bind=True, **ASKS_OTHERS)
def sync_supplier_products(
    self: Task[Any, Any], supplier_id: int, force_full_sync: bool = False
) -> dict[str, Any]:
    """Bring one supplier's products and stock to what it lists."""
    task_id = str(self.request.id or "")
    done = services.sync_products(supplier_id, timezone.now(), force_full_sync, task_id)
    logger.info("%s", done)
    return done


@shared_task(**ASKS_OTHERS)
def test_supplier_connection(supplier_id: int) -> dict[str, Any]:
    """Ask one supplier's interface; an answer that is none is the result, and no failure of the task."""
    done = services.try_connection(supplier_id, timezone.now())
    (logger.info if done["ok"] else logger.warning)("%(supplier)s: %(text)s", done)
    return done


# Test runners take a name with test_ for a test.
test_supplier_connection.__test__ = False


@shared_task(**ASKS_OTHERS)
def update_supplier_inventory(supplier_id: int | None = None) -> dict[str, int]:
    """Bring the stock of one supplier's products, or of all active ones', to what is listed."""
    suppliers = services.active_suppliers() if supplier_id is None else [supplier_id]
    changed = sum(services.update_stock(each, timezone.now()) for each in suppliers)
    return {"suppliers": len(suppliers), "changed": changed}


@shared_task(**RETRY)
def cleanup_supplier_data(days: int = 30) -> dict[str, int]:
    """Delete records of synchronisations, and retired products that were never sold, after this many days."""
    return services.clean_up(before(days))
