"""The app's name for Django."""

from __future__ import annotations

from django.apps import AppConfig


class MarketplacesConfig(AppConfig):
    """Marketplaces, listings and orders."""

    name = "marketplaces"
