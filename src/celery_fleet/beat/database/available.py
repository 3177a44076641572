"""Check that django_celery_beat can be used with an application."""

from __future__ import annotations

import os

from celery_fleet.common.errors import one_line

PACKAGE = "django_celery_beat"


def missing() -> str:
    """Return why this process has no schedule in a database, with the remedy; empty if it has one."""
    try:
        import django
        from django.apps import apps
        from django.conf import settings
    except ImportError:
        return "there is no Django in its virtualenv, which a schedule in the database needs"
    try:
        __import__(PACKAGE)
    except ImportError:
        return (
            f"there is no {PACKAGE} in its virtualenv: add django-celery-beat to the requirements"
        )
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return "Django has no settings there: its Celery module must set DJANGO_SETTINGS_MODULE"
    try:
        if not apps.ready:
            django.setup()
        installed = apps.is_installed(PACKAGE)
    except Exception as error:  # noqa: BLE001  # the project's own settings and applications may raise anything
        return f"Django can't be set up ({type(error).__name__}: {one_line(error)})"
    if installed:
        return ""
    return f"{PACKAGE} is not in INSTALLED_APPS: add it there, and migrate"
