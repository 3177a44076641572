"""The tasks of the queue `workflows`. services.py does the work; this file says how Celery runs it."""

from __future__ import annotations

from typing import Any

from celery import Task, shared_task
from celery.utils.log import get_task_logger
from django.utils import timezone

from core.running import RETRY, before
from orchestration import services

logger = get_task_logger(__name__)


@shared_task(bind=True, **RETRY)
def execute_workflow(
    self: Task[Any, Any], workflow_id: int, execution_id: int | None = None
) -> dict[str, Any]:
    """Execute a workflow: the given pending execution of it, or a new one.

    A step that fails is the execution's status and error, and no failure of the task.
    """
    if execution_id is None:
        task_id = str(self.request.id or "")
        execution_id = services.make_execution(workflow_id, timezone.now(), task_id)
    done = services.execute(execution_id, timezone.now())
    if done.error:
        logger.warning("execution %d of %s failed: %s", done.pk, done.workflow, done.error)
    return {"execution": done.pk, "status": str(done.status), "error": done.error}


@shared_task(**RETRY)
def schedule_workflow_executions() -> dict[str, int]:
    """Make and send executions of the workflows that are due, and send again those whose message was lost."""
    due = services.take_due(timezone.now())
    for workflow_id, execution_id in due:
        execute_workflow.delay(workflow_id, execution_id)
    return {"sent": len(due)}


@shared_task(**RETRY)
def retry_failed_workflow_execution(execution_id: int) -> dict[str, Any]:
    """Send a failed execution again; one that is not failed is left as it is."""
    found = services.reopen(execution_id, timezone.now())
    pending = found.status == services.Status.PENDING
    if pending:
        # It is also pending if this task was interrupted before it sent: a second message finds the work done.
        execute_workflow.delay(found.workflow_id, found.pk)
    return {"execution": found.pk, "status": str(found.status), "sent": pending}


@shared_task(**RETRY)
def cleanup_old_executions(days: int = 30) -> dict[str, int]:
    """Delete executions that ended more than so many days ago."""
    return {"deleted": services.clean_up(before(days))}
