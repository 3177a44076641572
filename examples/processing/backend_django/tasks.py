"""The tasks. processing.py does the work; this file says how Celery runs it."""

from __future__ import annotations

from typing import Any

from celery import Task, shared_task
from celery.utils.log import get_task_logger
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from backend_django import processing
from backend_django.models import ProcessingRequest

logger = get_task_logger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError)

# While the database is away, tries again after up to 2, 4, 8 … 60 s. Safe: each task can be run again.
RETRY: dict[str, Any] = {
    "autoretry_for": DATABASE_AWAY,
    "retry_backoff": 2,
    "retry_backoff_max": 60,
    "max_retries": 6,
}


@shared_task(bind=True, **RETRY)
def process_data_task(self: Task, request_id: int) -> dict[str, Any]:
    """Process a request: pending → processing → completed, or failed with the error's text."""
    request = processing.claim(request_id, self.request.id or "")
    if request is None:
        status = ProcessingRequest.objects.values_list("status", flat=True).get(id=request_id)
        logger.info("request %d is left alone: it is %s", request_id, status)
        return {"request": request_id, "status": status, "left": True}
    try:
        # Phase 4, the clean-up, is the end of the block, however it is left.
        with processing.working_directory(request) as directory:
            validated = processing.validate_input(request, directory)
            outcome = processing.execute_business_logic(validated, directory)
            processing.save_result(request, outcome)
        if not processing.finish(request):
            logger.warning("request %d was ended by somebody else meanwhile", request_id)
    except DATABASE_AWAY as error:
        # It stays at processing for the next try, which is this task again.
        if self.request.retries >= self.max_retries:
            processing.fail(request, error)
        raise
    except Exception as error:
        processing.fail(request, error)
        raise
    logger.info("request %d is completed", request_id)
    return {"request": request_id, "status": ProcessingRequest.Status.COMPLETED.value}


@shared_task(**RETRY)
def cleanup_old_requests() -> dict[str, int]:
    """Delete requests that ended long ago, and end those whose task was lost."""
    done = processing.clean_up(timezone.now())
    logger.info("deleted %(deleted)d old requests, ended %(lost)d lost ones", done)
    return done
