"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """Products and what becomes of them."""

    name = "aiecommerce.catalog"
