"""Paths; nginx asks for a password below /api/admin/ and /admin/."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from promotions import views

urlpatterns = [
    path("health", views.health),
    path("api/promotions", views.promotions),
    path("api/promotions/<int:pk>", views.promotion),
    path("api/archive", views.archive),
    path("api/admin/check", views.check),
    path("admin/", admin.site.urls),
]
