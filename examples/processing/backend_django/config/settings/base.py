"""What local and production have in common. Everything that differs between places is a variable of the environment."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parents[3]
BACKEND_DIR = BASE_DIR / "backend_django"

ENVIRONMENTS = ("development", "staging", "production")


def env(name: str, *others: str) -> str:
    """Return a required variable of the environment: this one or, instead, one of the others."""
    for each in (name, *others):
        if value := os.environ.get(each):
            return value
    instead = "".join(f", nor is {other}" for other in others)
    raise ImproperlyConfigured(
        f"{name} is not set in the environment{instead}: give it, or"
        " DJANGO_SETTINGS_MODULE=config.settings.local where you develop"
    )


def env_number(name: str, default: int) -> int:
    """A whole number, 1 at least."""
    value = os.environ.get(name) or str(default)
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ImproperlyConfigured(f"{name} is {value!r}: write a whole number, 1 at least")
    return int(value)


# --- Django --------------------------------------------------------------------------------------

# The kind of environment. Fixtures named dev_* are only for development.
ENVIRONMENT = os.environ.get("ENVIRONMENT") or "production"
if ENVIRONMENT not in ENVIRONMENTS:
    raise ImproperlyConfigured(
        f"ENVIRONMENT is {ENVIRONMENT!r}: write one of {', '.join(ENVIRONMENTS)}"
    )

DEBUG = False
SECRET_KEY = env("DJANGO_SECRET_KEY")
ALLOWED_HOSTS = [name.strip() for name in env("DJANGO_ALLOWED_HOSTS").split(",") if name.strip()]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "backend_django",
    "backend_django.site_config",
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

# A cookie knows no port: under Django's own names two sites on one host would log each other out.
SESSION_COOKIE_NAME = "processing_sessionid"
CSRF_COOKIE_NAME = "processing_csrftoken"

DATABASES = {
    "default": dj_database_url.parse(env("DATABASE_URL"), conn_max_age=60, conn_health_checks=True)
}
_options = DATABASES["default"].setdefault("OPTIONS", {})
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # A peer that vanished is noticed after 10 s, not after the kernel's quarter of an hour.
    for _name, _value in (
        ("connect_timeout", 5),
        ("keepalives_idle", 10),
        ("tcp_user_timeout", 10_000),
    ):
        _options.setdefault(_name, _value)
elif DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Two processes that write wait for each other, from the beginning of the transaction on.
    _options.update(timeout=20, transaction_mode="IMMEDIATE")

# --- The front-end, which is built once and told its addresses by the place where it runs --------------

FRONTEND_BUILD = BASE_DIR / "frontend" / "dist"
FRONTEND_VALUES = {
    "VITE_APP_STATIC_ROOT": env("VITE_APP_STATIC_ROOT"),
    "VITE_APP_API_ROOT": env("VITE_APP_API_ROOT"),
}
# A directory for each release and each set of values: what runs still serves its own while the next are written, and
# who goes back to a release finds them.
_SERVED = Path(
    env("STATIC_ROOT"),
    os.environ.get("CELERY_FLEET_RELEASE", ""),
    hashlib.sha256(json.dumps(FRONTEND_VALUES, sort_keys=True).encode()).hexdigest()[:8],
)
# inject_frontend writes the first, collectstatic gathers it and the admin's own files in the second.
FRONTEND_ROOT = _SERVED / "frontend"
STATIC_ROOT = _SERVED / "static"
STATIC_URL = "/static/"
STATICFILES_DIRS = [("frontend", FRONTEND_ROOT)]
# It is not there before inject_frontend. Who serves looks for it (config/wsgi.py).
SILENCED_SYSTEM_CHECKS = ["staticfiles.W004"]

# --- Celery: the prefix is the namespace in config/celery_app.py -----------------------------------

# The entrypoint of the container made the first of the second.
CELERY_BROKER_URL = env("CELERY_BROKER_URL", "REDIS_URL")
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_RESULT_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_TASK_TIME_LIMIT = 60 * 60
# Before the hard limit, at which the process is killed: time to say in the request that it failed, and to tidy up.
CELERY_TASK_SOFT_TIME_LIMIT = CELERY_TASK_TIME_LIMIT - 60
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_TIMEZONE = TIME_ZONE
CELERY_TASK_TRACK_STARTED = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# In seconds. Celery's default for the broker is none: a call would wait for ever on a dead peer.
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 3, "socket_timeout": 10}
# Sending a task also asks the result store, and Celery would try that for 20 s.
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"retry_policy": {"timeout": 5.0}}
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 3
CELERY_REDIS_SOCKET_TIMEOUT = 10

# --- Processing ----------------------------------------------------------------------------------

# Requests that have ended are deleted after this many days.
PROCESSING_RETENTION_DAYS = env_number("PROCESSING_RETENTION_DAYS", 30)
# A request that has neither ended nor begun again for so long has lost its task. This is longer than a task may take,
# and longer than the broker keeps it before it gives it to another worker.
PROCESSING_LOST_AFTER_HOURS = env_number("PROCESSING_LOST_AFTER_HOURS", 24)
# Where working directories are made; by default the system's place, which each worker has for itself.
PROCESSING_WORK_DIR = os.environ.get("PROCESSING_WORK_DIR") or None
