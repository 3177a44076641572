"""A Django project whose beat keeps its schedule in the database, with one entry in the code."""

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.beat_schedule = {
    "in the code": {"task": "shop.clean", "schedule": crontab(minute=0, hour=3)},
}
if os.environ.get("SALTED"):
    # Python salts hash() in each process.
    app.conf.beat_schedule["salted"] = {
        "task": "shop.clean",
        "schedule": 1 + hash("shop.clean") % 1_000_000,
    }


@app.task(name="shop.clean")
def clean(*args, **kwargs):
    return args


@app.task(name="shop.sync")
def sync(*args, **kwargs):
    return args
