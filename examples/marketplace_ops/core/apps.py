"""The app's name for Django."""

from __future__ import annotations

from django.apps import AppConfig


class CoreConfig(AppConfig):
    """What all apps share."""

    name = "core"
