"""The app's name for Django."""

from __future__ import annotations

from django.apps import AppConfig


class SuppliersConfig(AppConfig):
    """Suppliers and what they have."""

    name = "suppliers"
