"""The core's notes; they are the tasks' to write."""

from __future__ import annotations

from django.contrib import admin

from core.models import MaintenanceRun


@admin.register(MaintenanceRun)
class MaintenanceRunAdmin(admin.ModelAdmin):
    """When each ran, and what it returned."""

    list_display = ("kind", "ran_at", "task_id")
    list_filter = ("kind",)
