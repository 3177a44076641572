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


def number(name: str, default: int) -> int:
    """A variable of the environment that is a whole number, one or more."""
    value = os.environ.get(name) or str(default)
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ImproperlyConfigured(f"{name} is {value!r}, and has to be a whole number from 1 on")
    return int(value)


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
    # The schedule as rows of the database; users edit it on its pages in the admin.
    "django_celery_beat",
    "suppliers",
    "marketplaces",
    "orchestration",
    "ai_agents",
    "analytics",
    "core",
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
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
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
SESSION_COOKIE_NAME = "marketplace_ops_sessionid"
CSRF_COOKIE_NAME = "marketplace_ops_csrftoken"

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

# --- Where the tasks of the core work ---------------------------------------------------------------

# The fleet's last health result, a file that its own timer writes; a developer's machine has none.
HEALTH_FILE = os.environ.get("CELERY_FLEET_HEALTH", "")
LOG_DIRECTORY = Path(os.environ.get("LOG_DIRECTORY") or BASE_DIR / "logs")
BACKUP_DIRECTORY = Path(os.environ.get("BACKUP_DIRECTORY") or BASE_DIR / "backups")
# The newest so many are kept.
BACKUP_KEEP = number("BACKUP_KEEP", 7)

# --- Celery: the prefix is the namespace in config/celery.py ----------------------------------------

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")
CELERY_RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/0")

CELERY_TIMEZONE = TIME_ZONE
# Rows of the schedule have moments with a zone, as all others.
DJANGO_CELERY_BEAT_TZ_AWARE = True

# In seconds; the inventory gives the two tasks that may take longer a worker with longer ones.
CELERY_TASK_SOFT_TIME_LIMIT = 540
CELERY_TASK_TIME_LIMIT = 600

CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# In seconds. Celery's default for the broker is none: a call would wait for ever on a dead peer.
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 3, "socket_timeout": 10}
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 3
# Sending a task also asks the result store, and Celery would try that for 20 s.
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"retry_policy": {"timeout": 5.0}}
CELERY_REDIS_SOCKET_TIMEOUT = 10
