"""The app's name for Django."""

from __future__ import annotations

from django.apps import AppConfig


class BackendDjangoConfig(AppConfig):
    """Requests and their processing."""

    name = "backend_django"
    verbose_name = "Processing"
