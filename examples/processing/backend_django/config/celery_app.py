"""The Celery application: `celery -A config.celery_app`."""

from __future__ import annotations

import os

from celery import Celery

# Production's: who forgets to say which gets what refuses to start half configured, and no debug pages.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.production")

app = Celery("processing")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
