"""The work itself, without Celery. Each function can be repeated, and can run twice at once."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import DataError, IntegrityError, transaction
from django.db.models import Q

from orchestration import steps
from orchestration.models import Workflow, WorkflowExecution

Status = WorkflowExecution.Status
# An execution that was sent so long ago and is pending is sent again: its message is lost, or waits; then the
# second one finds it done.
SEND_AGAIN = timedelta(minutes=15)


def make_execution(workflow_id: int, now: datetime, task_id: str = "") -> int:
    """A new execution of a workflow, or the one that this task has made before. Raises Workflow.DoesNotExist."""
    workflow = Workflow.objects.get(pk=workflow_id)
    values = {"workflow": workflow, "created_at": now, "sent_at": now}
    if not task_id:
        return WorkflowExecution.objects.create(**values).pk
    return WorkflowExecution.objects.get_or_create(task_id=task_id, defaults=values)[0].pk


@transaction.atomic
def execute(execution_id: int, now: datetime) -> WorkflowExecution:
    """Do all steps of a pending execution, or none if one fails. An execution with another status stays as it is."""
    execution = (
        WorkflowExecution.objects.select_for_update(of=("self",))
        .select_related("workflow")
        .get(pk=execution_id)
    )
    if execution.status != Status.PENDING:
        return execution
    execution.attempts += 1
    try:
        with transaction.atomic():
            execution.results = steps.run(execution.workflow.steps)
        execution.status, execution.error = Status.COMPLETED, ""
    except steps.StepError as error:
        execution.status, execution.error = Status.FAILED, str(error)
    except (ArithmeticError, DataError, IntegrityError) as error:
        # What the database has no room for, or refuses: left pending it would be sent again for ever.
        execution.status, execution.error = Status.FAILED, f"{type(error).__name__}: {error}"
    execution.finished_at = now
    execution.save()
    return execution


@transaction.atomic
def take_due(now: datetime) -> list[tuple[int, int]]:
    """Make executions of the workflows that are due, and find those whose message was lost: (workflow, execution)."""
    mine = Workflow.objects.select_for_update(skip_locked=True).filter(
        is_active=True, interval_minutes__isnull=False
    )
    for workflow in mine.filter(Q(next_run_at=None) | Q(next_run_at__lte=now)):
        due = workflow.next_run_at or now
        WorkflowExecution.objects.get_or_create(
            workflow=workflow, scheduled_for=due, defaults={"created_at": now}
        )
        # After an outage once, and not once for each time that was missed.
        every = timedelta(minutes=workflow.interval_minutes)
        workflow.next_run_at = due + every * ((now - due) // every + 1)
        workflow.save(update_fields=["next_run_at"])
    unsent = (
        WorkflowExecution.objects.select_for_update(skip_locked=True)
        .filter(Q(sent_at=None) | Q(sent_at__lt=now - SEND_AGAIN), status=Status.PENDING)
        .order_by("pk")
    )
    found = list(unsent.values_list("workflow_id", "pk"))
    WorkflowExecution.objects.filter(pk__in=[pk for _, pk in found]).update(sent_at=now)
    return found


@transaction.atomic
def reopen(execution_id: int, now: datetime) -> WorkflowExecution:
    """Have a failed execution pending again; one that is not failed is left as it is."""
    execution = WorkflowExecution.objects.select_for_update().get(pk=execution_id)
    if execution.status == Status.FAILED:
        execution.status, execution.sent_at, execution.finished_at = Status.PENDING, now, None
        execution.save(update_fields=["status", "sent_at", "finished_at"])
    return execution


def clean_up(before: datetime) -> int:
    """Delete the executions that ended before; how many."""
    old = WorkflowExecution.objects.filter(finished_at__lt=before).exclude(status=Status.PENDING)
    return old.delete()[0]
