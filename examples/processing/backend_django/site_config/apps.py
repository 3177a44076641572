"""The app's name for Django."""

from __future__ import annotations

from django.apps import AppConfig


class SiteConfigConfig(AppConfig):
    """What the site itself has to remember."""

    name = "backend_django.site_config"
    verbose_name = "Site configuration"
