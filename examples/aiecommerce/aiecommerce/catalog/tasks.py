"""The tasks. pipeline.py does the work; this file says how Celery runs it.

Their names are short, as the schedule and an operator write them: `celery -A aiecommerce call run_scrape_tecnomega`.
"""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.db import InterfaceError, OperationalError

from . import pipeline
from .models import Product
from .sources import SourceUnavailable

# While the database or a source is away, tries again after up to 2, 4, 8 … 60 s. Safe: each task can be run again.
RETRY: dict[str, Any] = {
    "autoretry_for": (OperationalError, InterfaceError, SourceUnavailable),
    "retry_backoff": 2,
    "retry_backoff_max": 60,
    "max_retries": 6,
}


@shared_task(name="run_scrape_tecnomega", **RETRY)
def run_scrape_tecnomega() -> dict[str, str | int]:
    """Scrape the supplier's site: raw data, one row for each hour and code."""
    return pipeline.scrape()


@shared_task(name="run_normalize_products", **RETRY)
def run_normalize_products() -> dict[str, int]:
    """Clean and standardise what was scraped."""
    return pipeline.normalize()


@shared_task(name="run_enrich_products", **RETRY)
def run_enrich_products() -> dict[str, int]:
    """Augment products from external and internal sources."""
    return pipeline.enrich()


@shared_task(name="run_ml_eligibility_update", **RETRY)
def run_ml_eligibility_update() -> dict[str, int]:
    """Determine which products are eligible for Mercado Libre."""
    return pipeline.update_eligibility()


@shared_task(name="run_image_fetcher", **RETRY)
def run_image_fetcher() -> dict[str, int]:
    """Fetch and process images for eligible products."""
    return pipeline.fetch_images()


@shared_task(name="run_sync_price_list", **RETRY)
def run_sync_price_list() -> dict[str, int]:
    """Synchronise the internal price list from its source."""
    return pipeline.sync_price_list()


@shared_task(name="run_prune_scrapes", **RETRY)
def run_prune_scrapes() -> dict[str, int]:
    """Prune old scraped data."""
    return pipeline.prune_scrapes()


@shared_task(name="update_product_price", **RETRY)
def update_product_price(product_id: int, new_price: float | str) -> str:
    """Set the price of the product with this id; its current row is read here, not by the sender."""
    product = Product.objects.get(id=product_id)
    product.price = pipeline.money(new_price)
    # The pipeline may change the other columns at the same time.
    product.save(update_fields=["price"])
    return str(product.price)
