"""What an operator sees at /admin/; django_celery_beat itself adds the schedule."""

from __future__ import annotations

from django.contrib import admin

from backend_django.models import Operation, ProcessingRequest, ProcessingResult


@admin.register(Operation)
class OperationAdmin(admin.ModelAdmin):
    """What may be asked for."""

    list_display = ("name", "description", "decimals")


@admin.register(ProcessingRequest)
class ProcessingRequestAdmin(admin.ModelAdmin):
    """Requests, with the error of those that failed."""

    list_display = ("id", "operation", "status", "created_at", "finished_at", "error_message")
    list_filter = ("status", "operation")


@admin.register(ProcessingResult)
class ProcessingResultAdmin(admin.ModelAdmin):
    """Results, without their files."""

    list_display = ("request", "output_name", "created_at")
