"""Paths; nginx asks for a password below /api/admin/ and /admin/."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from core import views

urlpatterns = [
    path("health", views.health),
    path("api/products", views.products),
    path("api/orders", views.orders),
    path("api/executions", views.executions),
    path("api/reports", views.reports),
    path("api/admin/suppliers/<int:pk>/sync", views.sync_supplier),
    path("api/admin/orders/<int:pk>/fulfil", views.fulfil_order),
    path("api/admin/workflows/<int:pk>/execute", views.execute_workflow),
    # With it the pages of django_celery_beat, on which users edit the schedule.
    path("admin/", admin.site.urls),
]
