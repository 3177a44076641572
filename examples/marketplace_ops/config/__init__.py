"""Marketplace Ops: suppliers' goods on several marketplaces, and the work of every day around them."""

# Django imports this package first: `@shared_task` then finds this application in every process.
from config.celery import app as celery_app

__all__ = ["celery_app"]
