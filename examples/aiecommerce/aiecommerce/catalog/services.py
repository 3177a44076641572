"""What the web process does for its views and commands."""

from __future__ import annotations

from typing import Any

from celery.result import AsyncResult
from django.db import transaction

from .models import Product
from .tasks import update_product_price

# The price that a new product gets.
FIRST_PRICE = 20.00

# Passed with each call; otherwise the fleet's patience for publishing would become that of an HTTP request.
PUBLISH_RETRY = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}


class ResultsUnavailable(Exception):
    """The result store, which is asked when a task is sent, does not answer."""


def create_product(request_data: dict[str, Any]) -> Product:
    """Store a new product; a worker sets its first price.

    In a transaction, the task is sent after the commit, so no worker looks for a row that is not there yet. After a
    rollback no task is sent.
    """
    product = Product.objects.create(**request_data)
    # The task will only run if the transaction succeeds
    # No result: no caller learns the task's id, so the result store need not answer.
    transaction.on_commit(lambda: send_price(product.id, FIRST_PRICE, ignore_result=True))
    return product


def send_price(
    product_id: int, new_price: float | str, *, ignore_result: bool = False
) -> AsyncResult:
    """Have a worker set a price.

    Raises ResultsUnavailable, or kombu's OperationalError if the broker is away.
    """
    try:
        return update_product_price.apply_async(
            (product_id, new_price), ignore_result=ignore_result, retry_policy=PUBLISH_RETRY
        )
    except RuntimeError as error:
        # All that Celery says of a result store that it could not reach.
        raise ResultsUnavailable from error
