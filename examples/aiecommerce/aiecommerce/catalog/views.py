"""The JSON API. What a caller does wrong, and an outage, is answered by `{"detail": …}` and a status code."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import current_app
from celery.exceptions import BackendGetMetaError
from django.core.exceptions import ValidationError
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from . import pipeline, services
from .models import Product

log = logging.getLogger(__name__)

FIELDS = ("sku", "name", "category")
MAX_ERROR_LENGTH = 300

# What Celery raises if one of its two Redis is away; for a result, BackendGetMetaError if it was set to retry.
AWAY = (BrokerError, RedisError, BackendGetMetaError, services.ResultsUnavailable)

View = Callable[..., JsonResponse]


class Refused(Exception):
    """What the caller did wrong."""

    def __init__(self, status: int, detail: object) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def api(method: str) -> Callable[[View], View]:
    """Make a view for one method of HTTP that answers errors in JSON."""

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def answer(request: HttpRequest, *arguments: Any, **named: Any) -> JsonResponse:
            if request.method not in (method, "HEAD" if method == "GET" else method):
                return JsonResponse(
                    {"detail": f"use {method}"}, status=405, headers={"Allow": method}
                )
            try:
                return view(request, *arguments, **named)
            except Refused as refused:
                return JsonResponse({"detail": refused.detail}, status=refused.status)
            except Product.DoesNotExist:
                return JsonResponse({"detail": "there is no such product"}, status=404)
            except AWAY as error:
                return _unavailable("broker or result backend", error)
            except (OperationalError, InterfaceError) as error:
                return _unavailable("database", error)

        return answer

    return decorate


def _unavailable(service: str, cause: Exception) -> JsonResponse:
    # Of the cause only its type is logged: its text may hold an address.
    log.warning("the %s is unavailable: %s", service, type(cause).__name__)
    return JsonResponse({"detail": f"the {service} is unavailable"}, status=503)


def body(request: HttpRequest) -> dict[str, Any]:
    """The JSON object that was sent."""
    # No form of another site's page can send this type, so no token against forged requests is needed.
    if request.content_type != "application/json":
        raise Refused(415, "send application/json")
    try:
        content = json.loads(request.body)
    except ValueError:
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise Refused(400, "the body must be a JSON object")
    return content


def shown(item: Product) -> dict[str, Any]:
    """A product as the API gives it."""
    return {
        "id": item.id,
        "sku": item.sku,
        "name": item.name,
        "category": item.category,
        "price": None if item.price is None else str(item.price),
        "stock": item.stock,
    }


@api("GET")
def health(_: HttpRequest) -> JsonResponse:
    """That the process answers; broker and database are not asked."""
    return JsonResponse({"status": "ok"})


@api("GET")
def products(_: HttpRequest) -> JsonResponse:
    """All products."""
    return JsonResponse({"products": [shown(item) for item in Product.objects.order_by("sku")]})


@api("GET")
def product(_: HttpRequest, product_id: int) -> JsonResponse:
    """One product."""
    return JsonResponse(shown(Product.objects.get(id=product_id)))


@csrf_exempt
@api("POST")
def create(request: HttpRequest) -> JsonResponse:
    """Create a product of `sku`, `name` and maybe `category`; a worker sets its first price."""
    data = body(request)
    if unknown := sorted(data.keys() - set(FIELDS)):
        raise Refused(422, {name: ["is not known here"] for name in unknown})
    # PostgreSQL stores no text with a NUL in it.
    if wrong := [n for n, value in data.items() if not isinstance(value, str) or "\0" in value]:
        raise Refused(422, {name: ["must be a text"] for name in wrong})
    try:
        Product(**data).full_clean()
        with transaction.atomic():
            created = services.create_product(data)
    except ValidationError as error:
        taken = any(e.code == "unique" for es in error.error_dict.values() for e in es)
        raise Refused(409 if taken else 422, error.message_dict) from None
    except IntegrityError:
        # Another request was quicker.
        raise Refused(409, {"sku": ["Product with this Sku already exists."]}) from None
    except AWAY as error:
        # It is committed: only its price is missing.
        log.warning("a task for a new product was not sent: %s", type(error).__name__)
        stored = Product.objects.get(sku=data["sku"])
        raise Refused(
            503,
            f"product {stored.id} is created, but the broker is unavailable, so it has no price yet; "
            f"set one by POST /api/v1/admin/products/{stored.id}/price",
        ) from None
    return JsonResponse(shown(created), status=201)


@csrf_exempt
@api("POST")
def change_price(request: HttpRequest, product_id: int) -> JsonResponse:
    """Have a worker set the `price` of a product; answers at once, with the task."""
    wanted = body(request).get("price")
    if isinstance(wanted, bool) or not isinstance(wanted, str | int | float):
        raise Refused(422, {"price": ["must be a number"]})
    try:
        price = str(pipeline.money(wanted))
    except ValueError as error:
        raise Refused(422, {"price": [str(error)]}) from None
    if not Product.objects.filter(id=product_id).exists():
        raise Refused(404, "there is no such product")
    task = services.send_price(product_id, price)
    return JsonResponse(
        {"task_id": task.id, "status_url": reverse("task", args=[task.id])}, status=202
    )


@api("GET")
def task_status(_: HttpRequest, task_id: UUID) -> JsonResponse:
    """How a task stands. Celery says PENDING of one that waits, and of one it never heard of."""
    # State and result in one look: in two, the task may have moved between them.
    meta = current_app.backend.get_task_meta(str(task_id))
    answer: dict[str, Any] = {"task_id": str(task_id), "state": meta["status"]}
    if isinstance(meta["result"], BaseException):
        lines = str(meta["result"]).splitlines() or [""]
        answer["error"] = f"{type(meta['result']).__name__}: {lines[0]}"[:MAX_ERROR_LENGTH]
    elif meta["status"] == "SUCCESS":
        answer["result"] = meta["result"]
    return JsonResponse(answer)
