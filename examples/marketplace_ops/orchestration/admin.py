"""Workflows and their executions in Django's own administration."""

from __future__ import annotations

from django.contrib import admin

from orchestration.models import Workflow, WorkflowExecution


@admin.register(WorkflowExecution)
class WorkflowExecutionAdmin(admin.ModelAdmin):
    """The newest first."""

    list_display = ("workflow", "created_at", "status", "attempts", "error")
    list_filter = ("status", "workflow")


admin.site.register(Workflow)
