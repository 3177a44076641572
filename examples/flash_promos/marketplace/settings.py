"""Django's and Celery's settings. What differs between places comes from the environment.

Without DATABASE_URL this is a developer's machine: SQLite beside the code, debug pages, a key that is
no secret. With it nothing is taken for granted, and what is missing is named.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DEVELOPMENT = not os.environ.get("DATABASE_URL")


def needed(name: str, for_developers: str) -> str:
    """A variable of the environment; on a developer's machine it has a default."""
    value = os.environ.get(name) or (for_developers if DEVELOPMENT else "")
    if not value:
        raise ImproperlyConfigured(f"{name} is not set in the environment; DATABASE_URL is")
    return value


# --- Django --------------------------------------------------------------------------------------

DEBUG = DEVELOPMENT
SECRET_KEY = needed("DJANGO_SECRET_KEY", for_developers="for-developers-" + "0" * 40)
ALLOWED_HOSTS = needed("DJANGO_ALLOWED_HOSTS", for_developers="localhost,127.0.0.1").split(",")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "promotions",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "marketplace.urls"
WSGI_APPLICATION = "marketplace.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
# collectstatic writes there, so it is not part of a release, which must not change. If the environment names it, each
# release has its own directory: the previous one still serves its files, and a release that you go back to finds its
# own.
STATIC_ROOT = Path(
    os.environ.get("DJANGO_STATIC_ROOT") or BASE_DIR / "staticfiles",
    os.environ.get("CELERY_FLEET_RELEASE", ""),
)

# A cookie knows no port: under Django's own names two sites on one host would log each other out.
SESSION_COOKIE_NAME = "flash_promos_sessionid"
CSRF_COOKIE_NAME = "flash_promos_csrftoken"

if not DEVELOPMENT:
    MIDDLEWARE.insert(1, "whitenoise.middleware.WhiteNoiseMiddleware")
    # Names carry a hash of the content: a browser may keep what it has.
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }
    # The proxy in front sets this header on every request and overrides a client's.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

DATABASES = {
    "default": dj_database_url.config(
        default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}", conn_max_age=60, conn_health_checks=True
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    _given: dict[str, Any] = DATABASES["default"].get("OPTIONS", {})
    # Seconds, unless the URL says otherwise: a host that is down is an error soon, not in two minutes.
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 5, **_given}

# --- Celery: the prefix is the namespace in marketplace/celery.py ----------------------------------

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")
CELERY_RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/0")

CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1000

CELERY_WORKER_LOG_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
CELERY_WORKER_TASK_LOG_FORMAT = (
    "[%(asctime)s: %(levelname)s/%(processName)s][%(task_name)s(%(task_id)s)] %(message)s"
)

# Every so many seconds, from when beat starts.
CELERY_BEAT_SCHEDULE = {
    "check-flash-promos-every-minute": {
        "task": "promotions.tasks.check_active_promos",
        "schedule": 60.0,
    },
    "cleanup-expired-promos-every-hour": {
        "task": "promotions.tasks.cleanup_expired_promos",
        "schedule": 3600.0,
    },
    "process-notification-queue-every-30s": {
        "task": "promotions.tasks.process_notification_queue",
        "schedule": 30.0,
    },
}

# `celery control pool_restart` is refused without it.
CELERY_WORKER_POOL_RESTARTS = True

# In seconds: no task here takes more than one, so one that hangs is ended well before the next but few.
CELERY_TASK_SOFT_TIME_LIMIT = 240
CELERY_TASK_TIME_LIMIT = 300

CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# In seconds. Celery's default for the broker is none: a call would wait for ever on a dead peer.
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 3, "socket_timeout": 10}
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 3
# Sending a task also asks the result store, and Celery would try that for 20 s.
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"retry_policy": {"timeout": 5.0}}
CELERY_REDIS_SOCKET_TIMEOUT = 10
