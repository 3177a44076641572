"""What the web process does for its views and commands."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError

from backend_django.models import Operation, ProcessingRequest
from backend_django.tasks import process_data_task

# Passed with each call; otherwise a site's patience for publishing would become that of an HTTP request.
PUBLISH_RETRY = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}


class NotSent(Exception):
    """The request is stored as failed, because no message could be sent."""

    def __init__(self, request_id: int) -> None:
        super().__init__(f"request {request_id} could not be sent to a worker")
        self.request_id = request_id


def create_request(operation: Operation, data: dict[str, Any]) -> ProcessingRequest:
    """Store a request. Its message is sent after the commit, so no worker looks for a row that is not there yet.

    Raises:
        NotSent: broker or result store are away.
    """
    with transaction.atomic():
        request = ProcessingRequest.objects.create(operation=operation, input_data=data)
        transaction.on_commit(lambda: _send(request.pk))
    return request


def _send(request_id: int) -> None:
    try:
        process_data_task.apply_async((request_id,), retry_policy=PUBLISH_RETRY)
    except (BrokerError, RuntimeError) as error:
        # Celery only raises RuntimeError if it could not reach the result store. If the message was sent anyway, its
        # task takes up the request as a new one.
        ProcessingRequest.objects.filter(
            pk=request_id, status=ProcessingRequest.Status.PENDING
        ).update(
            status=ProcessingRequest.Status.FAILED,
            error_message="it was not sent to a worker, as the broker was unavailable: send it again",
            finished_at=timezone.now(),
        )
        raise NotSent(request_id) from error
