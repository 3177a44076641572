"""The HTTP API; its errors are JSON too."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import OperationalError
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from kombu.exceptions import OperationalError as BrokerError

from analytics.models import DailyReport
from marketplaces.models import Order
from marketplaces.tasks import fulfill_marketplace_order
from orchestration import tasks as orchestration
from orchestration.models import Workflow, WorkflowExecution
from suppliers.models import Product, Supplier
from suppliers.tasks import sync_supplier_products

log = logging.getLogger(__name__)

# Passed with each call; otherwise a site's patience for publishing would become that of an HTTP request.
PUBLISH_RETRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
# Rows of one answer.
PAGE = 100

View = Callable[..., JsonResponse]


def bounded(view: View) -> View:
    """Answer 503 in one line if broker or database are away. Only the type of the cause is logged."""

    @wraps(view)
    def answer(request: HttpRequest, **arguments: Any) -> JsonResponse:
        try:
            return view(request, **arguments)
        except (BrokerError, OperationalError) as error:
            service = "broker" if isinstance(error, BrokerError) else "database"
            log.warning("the %s is unavailable: %s", service, type(error).__name__)
            return JsonResponse({"detail": f"the {service} is unavailable"}, status=503)

    return answer


def sends(view: Callable[..., JsonResponse]) -> View:
    """A view that sends a task for a row. No form of another site can send its content type, which takes the place
    of a token."""

    @csrf_exempt
    @require_POST
    @bounded
    @wraps(view)
    def answer(request: HttpRequest, **arguments: Any) -> JsonResponse:
        if request.content_type != "application/json":
            return JsonResponse({"detail": "the content type must be application/json"}, status=415)
        try:
            body = json.loads(request.body or b"{}")
        except ValueError as error:
            return JsonResponse({"detail": f"the body is no JSON: {error}"}, status=400)
        if not isinstance(body, dict):
            return JsonResponse({"detail": "the body must be a JSON object"}, status=400)
        return view(body, **arguments)

    return answer


@require_GET
def health(_: HttpRequest) -> JsonResponse:
    """That the process answers; broker and database are not asked."""
    return JsonResponse({"status": "ok"})


@require_GET
@bounded
def products(_: HttpRequest) -> JsonResponse:
    """The products that are not retired, with their stock."""
    found = Product.objects.filter(retired_at=None)
    rows = found.values("id", "sku", "name", "cost", "supplier__code", "stock__quantity")
    return JsonResponse({"count": found.count(), "products": list(rows[:PAGE])})


@require_GET
@bounded
def orders(_: HttpRequest) -> JsonResponse:
    """The newest orders."""
    rows = Order.objects.values("id", "number", "ordered_at", "status", "tracking_number")
    return JsonResponse({"count": Order.objects.count(), "orders": list(rows[:PAGE])})


@require_GET
@bounded
def executions(_: HttpRequest) -> JsonResponse:
    """The newest executions of workflows."""
    found = WorkflowExecution.objects
    rows = found.values("id", "workflow__name", "status", "attempts", "results", "error")
    return JsonResponse({"count": found.count(), "executions": list(rows[:PAGE])})


@require_GET
@bounded
def reports(_: HttpRequest) -> JsonResponse:
    """The newest daily reports."""
    found = DailyReport.objects
    rows = found.values("day", "orders", "fulfilled", "units", "revenue")
    return JsonResponse({"count": found.count(), "reports": list(rows[:PAGE])})


@sends
def sync_supplier(body: dict[str, Any], pk: int) -> JsonResponse:
    """Have a supplier synchronised; with `{"force_full_sync": true}` in any case."""
    full = body.get("force_full_sync", False)
    if not isinstance(full, bool):
        return JsonResponse({"detail": "force_full_sync must be true or false"}, status=422)
    return _send(Supplier, pk, sync_supplier_products, {"force_full_sync": full})


@sends
def fulfil_order(body: dict[str, Any], pk: int) -> JsonResponse:
    """Mark an order as fulfilled, with its `tracking_number`."""
    number = body.get("tracking_number", "")
    if not isinstance(number, str) or len(number) > 60:
        return JsonResponse({"detail": "tracking_number must be a text of 60 at most"}, status=422)
    return _send(Order, pk, fulfill_marketplace_order, {"tracking_number": number})


@sends
def execute_workflow(_: dict[str, Any], pk: int) -> JsonResponse:
    """Execute a workflow now."""
    return _send(Workflow, pk, orchestration.execute_workflow, {})


def _send(model: Any, pk: int, task: Any, kwargs: dict[str, Any]) -> JsonResponse:
    if not model.objects.filter(pk=pk).exists():
        return JsonResponse({"detail": f"there is no {model._meta.verbose_name} {pk}"}, status=404)
    # ignore_result: no caller waits for it here, so the result store need not answer.
    sent = task.apply_async((pk,), kwargs, ignore_result=True, retry_policy=PUBLISH_RETRY)
    return JsonResponse({"task_id": str(sent.id)}, status=202)
