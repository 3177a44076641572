"""The Celery app and its schedule; `celery -A aiecommerce` finds it."""

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiecommerce.settings")

app = Celery("aiecommerce")

# Using a string here means the worker doesn't have to serialize
# the configuration object to child processes.
# - namespace='CELERY' means all celery-related configuration keys
#   should have a `CELERY_` prefix.
app.config_from_object("django.conf:settings", namespace="CELERY")

# Load task modules from all registered Django app configs.
app.autodiscover_tasks()


def _hourly(minute: int) -> crontab:
    """Once an hour from 8:00 to 19:59, Monday to Saturday, in CELERY_TIMEZONE."""
    return crontab(minute=minute, hour="8-19", day_of_week="mon-sat")


# The stages follow each other within the hour, each with some minutes for the one before.
app.conf.beat_schedule = {
    "run-scrape-tecnomega": {"task": "run_scrape_tecnomega", "schedule": _hourly(0)},
    "run-normalize-products": {"task": "run_normalize_products", "schedule": _hourly(10)},
    "run-enrich-products": {"task": "run_enrich_products", "schedule": _hourly(15)},
    "run-ml-eligibility-update": {"task": "run_ml_eligibility_update", "schedule": _hourly(20)},
    "run-image-fetcher": {"task": "run_image_fetcher", "schedule": _hourly(25)},
    "run-sync-price-list": {
        "task": "run_sync_price_list",
        "schedule": crontab(minute=0, hour=10),
    },
    "run-prune-scrapes": {
        "task": "run_prune_scrapes",
        "schedule": crontab(minute=0, hour=0),
    },
}
