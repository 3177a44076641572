"""The site: a page that counts its visits in the cache, an order, which is a task, and uploads."""

from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.http import HttpRequest, JsonResponse
from django.urls import path

from shop import VERSION
from shop.celery import weigh


def front(_: HttpRequest) -> JsonResponse:
    """Count a visit."""
    cache.add("visits", 0)
    return JsonResponse({"version": VERSION, "visits": cache.incr("visits")})


def order(_: HttpRequest) -> JsonResponse:
    """Send a task."""
    return JsonResponse({"task": weigh.delay("apples").id})


def upload(request: HttpRequest) -> JsonResponse:
    """Keep a file."""
    return JsonResponse({"name": default_storage.save("upload.bin", ContentFile(request.body))})


urlpatterns = [path("", front), path("order", order), path("upload", upload)]
