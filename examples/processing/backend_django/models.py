"""Requests, what may be asked for, and what came of them."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class Operation(models.Model):
    """What may be asked for. The fixtures bring the first ones; from then on people edit them at /admin/."""

    name = models.CharField(max_length=40, unique=True)
    description = models.CharField(max_length=200, blank=True)
    decimals = models.PositiveSmallIntegerField(default=2, help_text="Digits of the results.")

    def __str__(self) -> str:
        """Its name."""
        return self.name


class ProcessingRequest(models.Model):
    """One request. Its status is what the page asks for every two seconds."""

    class Status(models.TextChoices):
        """pending → processing → completed, or failed."""

        PENDING = "pending"
        PROCESSING = "processing"
        COMPLETED = "completed"
        FAILED = "failed"

    operation = models.ForeignKey(Operation, on_delete=models.PROTECT)
    input_data = models.JSONField()
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    # Of the task that processes it, or has.
    celery_task_id = models.CharField(max_length=155, blank=True)
    error_message = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """What the clean-up looks for."""

        indexes = (models.Index(fields=("status", "created_at"), name="request_by_status"),)

    def __str__(self) -> str:
        """Number, operation and status."""
        return f"{self.pk} {self.operation_id} {self.status}"


class ProcessingResult(models.Model):
    """What came of a request. One for each, however often its task has run."""

    request = models.OneToOneField(
        ProcessingRequest, on_delete=models.CASCADE, related_name="result"
    )
    data = models.JSONField()
    # The output file. Here and not in a directory: the hosts of workers and of the web process share none.
    output_name = models.CharField(max_length=100)
    output = models.BinaryField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        """Whose it is."""
        return f"of request {self.request_id}"
