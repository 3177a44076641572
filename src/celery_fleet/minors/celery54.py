"""Celery 5.4, which is as 5.5 in all that is read. Checked in the source of celery 5.4.0."""

from celery_fleet.minors.celery55 import *  # noqa: F403  # all of it
