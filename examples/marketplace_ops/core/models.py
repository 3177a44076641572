"""What the core's tasks leave behind."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils import timezone


class MaintenanceRun(models.Model):
    """That a task of the core ran, and what it returned."""

    class Kind(models.TextChoices):
        """One for each task."""

        HEALTH = "health"
        LOGS = "logs"
        DATABASE = "database"
        BACKUP = "backup"

    kind = models.CharField(max_length=10, choices=Kind)
    ran_at = models.DateTimeField(default=timezone.now)
    # Empty if the task was called in its own process and not by a worker.
    task_id = models.CharField(max_length=64, blank=True)
    result = models.JSONField(default=dict)

    class Meta:
        ordering = ("-ran_at", "-pk")
        indexes = (models.Index(fields=("kind", "ran_at"), name="maintenance_kind_ran_at"),)
        constraints = (
            # A message that is delivered twice leaves one row.
            models.UniqueConstraint(
                fields=("kind", "task_id"),
                condition=~models.Q(task_id=""),
                name="maintenance_once_a_task",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} at {self.ran_at:%F %T}"

    @classmethod
    def note(cls, kind: str, task_id: str, result: dict[str, Any]) -> None:
        """Write down what a task has done."""
        values = {"ran_at": timezone.now(), "result": result}
        if task_id:
            cls.objects.update_or_create(kind=kind, task_id=task_id, defaults=values)
        else:
            cls.objects.create(kind=kind, **values)
