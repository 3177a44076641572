"""Addresses. Behind nginx those below /api/ and /admin/ ask for a password."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from backend_django import views

urlpatterns = [
    path("", views.page),
    path("health", views.health),
    path("admin/", admin.site.urls),
    path("api/v1/operations", views.operations),
    path("api/v1/requests", views.requests),
    path("api/v1/requests/<int:request_id>/status", views.status, name="status"),
    path("api/v1/requests/<int:request_id>/result", views.result, name="result"),
    path("api/v1/requests/<int:request_id>/output", views.output, name="output"),
]
