"""Flash Promos Marketplace: promotions that last for hours, and the notifications that go with them."""

# Django imports this package first: `@shared_task` then finds this application in every process.
from marketplace.celery import app as celery_app

__all__ = ["celery_app"]
