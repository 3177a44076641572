"""What is stored. The database's constraints are rules that hold even if a task runs twice."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone


class Workflow(models.Model):
    """Steps, one after the other; by itself every so many minutes, or only when it is asked for."""

    name = models.CharField(max_length=100, unique=True)
    is_active = models.BooleanField(default=True)
    # [{"step": "reprice_listings", "markup_percent": 40}]: see steps.py.
    steps = models.JSONField(default=list)
    interval_minutes = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)]
    )
    next_run_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(interval_minutes=None) | models.Q(interval_minutes__gte=1),
                name="workflow_interval_is_positive",
            ),
        )

    def __str__(self) -> str:
        return self.name


class WorkflowExecution(models.Model):
    """One run of a workflow. What its steps did is kept or undone with its status, in one transaction."""

    class Status(models.TextChoices):
        """A failed one can become pending again; a completed one stays so."""

        PENDING = "pending"
        COMPLETED = "completed"
        FAILED = "failed"

    workflow = models.ForeignKey(Workflow, models.CASCADE, related_name="executions")
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    created_at = models.DateTimeField(default=timezone.now)
    # When it was due; null if a user asked for it.
    scheduled_for = models.DateTimeField(null=True, blank=True)
    # When it was last handed to Celery.
    sent_at = models.DateTimeField(null=True, blank=True)
    # The task that made it; empty if it was made first and then sent.
    task_id = models.CharField(max_length=64, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    finished_at = models.DateTimeField(null=True, blank=True)
    results = models.JSONField(default=list)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        indexes = (models.Index(fields=("status", "created_at"), name="execution_status_created"),)
        constraints = (
            models.UniqueConstraint(
                fields=("workflow", "scheduled_for"), name="execution_once_a_due_time"
            ),
            models.UniqueConstraint(
                fields=("task_id",),
                condition=~models.Q(task_id=""),
                name="execution_once_a_task",
            ),
        )

    def __str__(self) -> str:
        return f"{self.workflow_id} at {self.created_at:%F %T}: {self.status}"
