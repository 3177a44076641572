"""The HTTP API; its errors are JSON too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import OperationalError
from django.db.models import Count, Q
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from kombu.exceptions import OperationalError as BrokerError

from promotions.models import ArchivedPromotion, Promotion
from promotions.tasks import check_active_promos

log = logging.getLogger(__name__)

# Passed with each call; otherwise a site's patience for publishing would become that of an HTTP request.
PUBLISH_RETRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}

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


@require_GET
def health(_: HttpRequest) -> JsonResponse:
    """That the process answers; broker and database are not asked."""
    return JsonResponse({"status": "ok"})


@require_GET
@bounded
def promotions(request: HttpRequest) -> JsonResponse:
    """Return all promotions, or those of `?status=`."""
    status = request.GET.get("status")
    if status is not None and status not in Promotion.Status.values:
        known = ", ".join(Promotion.Status.values)
        return JsonResponse({"detail": f"status must be one of {known}"}, status=422)
    found = _counted()
    if status is not None:
        found = found.filter(status=status)
    return JsonResponse({"promotions": [_promotion(each) for each in found]})


@require_GET
@bounded
def promotion(_: HttpRequest, pk: int) -> JsonResponse:
    """One promotion."""
    found = _counted().filter(pk=pk).first()
    if found is None:
        return JsonResponse({"detail": f"there is no promotion {pk}"}, status=404)
    return JsonResponse(_promotion(found))


@require_GET
@bounded
def archive(_: HttpRequest) -> JsonResponse:
    """What stays of promotions that were cleaned up."""
    rows = ArchivedPromotion.objects.values("promotion_id", "name", "ends_at", "delivered")
    return JsonResponse({"archive": list(rows)})


# No form of another site can send this content type, so that it takes the place of a token.
@csrf_exempt
@require_POST
@bounded
def check(request: HttpRequest) -> JsonResponse:
    """Have a worker check all promotions now: 202 with the task's id."""
    if request.content_type != "application/json":
        return JsonResponse({"detail": "the content type must be application/json"}, status=415)
    # ignore_result: no caller waits for it here, so the result store need not answer.
    sent = check_active_promos.apply_async(ignore_result=True, retry_policy=PUBLISH_RETRY)
    return JsonResponse({"task_id": str(sent.id)}, status=202)


def _counted() -> Any:
    return Promotion.objects.annotate(
        pending=Count("notifications", filter=Q(notifications__status="pending")),
        sent=Count("notifications", filter=Q(notifications__status="sent")),
    )


def _promotion(found: Any) -> dict[str, Any]:
    return {
        "id": found.pk,
        "name": found.name,
        "discount_percent": found.discount_percent,
        "status": found.status,
        "starts_at": found.starts_at,
        "ends_at": found.ends_at,
        "messages": {"pending": found.pending, "sent": found.sent},
    }
