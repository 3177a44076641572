"""The page and the JSON API. What a caller does wrong, and an outage, is answered by `{"detail": …}`."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

from backend_django import processing, services
from backend_django.models import Operation, ProcessingRequest, ProcessingResult

log = logging.getLogger(__name__)

# What the list of requests shows.
LATEST = 50

View = Callable[..., HttpResponseBase]


class Refused(Exception):
    """What the caller did wrong."""

    def __init__(self, status: int, detail: object) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def api(*methods: str) -> Callable[[View], View]:
    """Make a view for some methods of HTTP that answers errors in JSON."""
    allowed = (*methods, "HEAD") if "GET" in methods else methods

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def answer(request: HttpRequest, **arguments: Any) -> HttpResponseBase:
            if request.method not in allowed:
                return JsonResponse(
                    {"detail": f"use {' or '.join(methods)}"},
                    status=405,
                    headers={"Allow": ", ".join(methods)},
                )
            try:
                return view(request, **arguments)
            except Refused as refused:
                return JsonResponse({"detail": refused.detail}, status=refused.status)
            except ProcessingRequest.DoesNotExist:
                return JsonResponse({"detail": "there is no such request"}, status=404)
            except (OperationalError, InterfaceError) as error:
                # Of the cause only its type is logged: its text may hold an address.
                log.warning("the database is unavailable: %s", type(error).__name__)
                return JsonResponse({"detail": "the database is unavailable"}, status=503)

        return answer

    return decorate


@api("GET")
def page(_: HttpRequest) -> HttpResponseBase:
    """The front-end's page; its scripts and styles are static files."""
    try:
        content = (settings.FRONTEND_ROOT / "index.html").read_bytes()
    except FileNotFoundError:
        raise Refused(503, "there is no page yet: run manage.py inject_frontend") from None
    # Browsers ask for it each time, because it names the files of its own release.
    return HttpResponse(content, headers={"Cache-Control": "no-cache"})


@api("GET")
def health(_: HttpRequest) -> HttpResponseBase:
    """That the process answers; broker and database are not asked."""
    return JsonResponse({"status": "ok"})


@api("GET")
def operations(_: HttpRequest) -> HttpResponseBase:
    """What may be asked for."""
    known = Operation.objects.order_by("name").values("name", "description")
    return JsonResponse({"operations": list(known)})


# No form of another site can send JSON, so that its content type takes the place of a token.
@csrf_exempt
@api("GET", "POST")
def requests(request: HttpRequest) -> HttpResponseBase:
    """The latest requests; or by POST a new one, whose id is answered at once."""
    if request.method == "POST":
        return _create(request)
    latest = ProcessingRequest.objects.order_by("-id")[:LATEST]
    return JsonResponse({"requests": [_status(each) for each in latest]})


def _create(request: HttpRequest) -> HttpResponseBase:
    content = _body(request)
    if unknown := sorted(content.keys() - {"operation", "data"}):
        raise Refused(422, {name: ["is not known here"] for name in unknown})
    name, data = content.get("operation"), content.get("data")
    if not isinstance(name, str):
        raise Refused(422, {"operation": ["must be a text"]})
    if not isinstance(data, dict):
        raise Refused(422, {"data": ["must be an object"]})
    operation = processing.operation_named(name)
    if operation is None:
        known = ", ".join(Operation.objects.order_by("name").values_list("name", flat=True))
        raise Refused(
            422, {"operation": [f"there is none of this name; there are {known or 'none'}"]}
        )
    try:
        created = services.create_request(operation, data)
    except services.NotSent as error:
        log.warning("a request was not sent: %s", type(error.__cause__).__name__)
        return JsonResponse(
            {"detail": f"{error}: the broker is unavailable", "id": error.request_id}, status=503
        )
    return JsonResponse(
        {
            "id": created.pk,
            "status": ProcessingRequest.Status.PENDING,
            "status_url": reverse("status", args=[created.pk]),
        },
        status=202,
    )


def _body(request: HttpRequest) -> dict[str, Any]:
    """The JSON object that was sent, of what a database can keep."""
    if request.content_type != "application/json":
        raise Refused(415, "send application/json")
    try:
        content = json.loads(request.body, parse_constant=_no_number)
        _keepable(content)
    except RequestDataTooBig:
        raise Refused(413, "the body is too large") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except ValueError as error:
        detail = error.args[0] if isinstance(error, _Unkeepable) else "the body is not JSON"
        raise Refused(400, detail) from None
    if not isinstance(content, dict):
        raise Refused(400, "the body must be a JSON object")
    return content


class _Unkeepable(ValueError):
    pass


def _no_number(name: str) -> float:
    raise _Unkeepable(f"{name} is no number in JSON")


def _keepable(value: object) -> None:
    """Refuse what PostgreSQL's JSON does not know: NUL, half a character, infinity (as which 1e999 is read)."""
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        raise _Unkeepable("a text in it has a character that can't be stored")
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise _Unkeepable("a number in it is too large")
    if isinstance(value, dict):
        for key, item in value.items():
            _keepable(key)
            _keepable(item)
    elif isinstance(value, list):
        for item in value:
            _keepable(item)


@api("GET")
def status(_: HttpRequest, request_id: int) -> HttpResponseBase:
    """How a request stands: what the page asks for every two seconds."""
    found = ProcessingRequest.objects.defer("input_data").get(pk=request_id)
    return JsonResponse(_status(found), headers={"Cache-Control": "no-store"})


@api("GET")
def result(_: HttpRequest, request_id: int) -> HttpResponseBase:
    """What came of a request."""
    found = _result(request_id)
    return JsonResponse(
        {
            "id": request_id,
            "data": found.data,
            "output_name": found.output_name,
            "output_url": reverse("output", args=[request_id]),
        }
    )


@api("GET")
def output(_: HttpRequest, request_id: int) -> HttpResponseBase:
    """The output file of a request."""
    found = _result(request_id)
    return HttpResponse(
        bytes(found.output),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{found.output_name}"'},
    )


def _result(request_id: int) -> ProcessingResult:
    found = ProcessingRequest.objects.defer("input_data").get(pk=request_id)
    if found.status != ProcessingRequest.Status.COMPLETED:
        raise Refused(409, f"request {request_id} is {found.status}, so it has no result")
    return ProcessingResult.objects.get(request=found)


def _status(found: ProcessingRequest) -> dict[str, Any]:
    answer = {
        "id": found.pk,
        "status": found.status,
        "celery_task_id": found.celery_task_id,
        "error_message": found.error_message,
        "created_at": found.created_at,
        "started_at": found.started_at,
        "finished_at": found.finished_at,
    }
    if found.status == ProcessingRequest.Status.COMPLETED:
        answer["result_url"] = reverse("result", args=[found.pk])
    return answer
