"""Settings, read from the environment. Without a SECRET_KEY nothing starts; DEBUG=1 is for a developer's machine."""

from __future__ import annotations

import os
from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent


def env(name: str, default: str = "") -> str:
    """Return a variable of the environment."""
    return os.environ.get(name, default)


def env_bool(name: str) -> bool:
    """Return a variable that is on or off; off if it is not set."""
    value = env(name).strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name} is {value!r}: write 1 or 0")


def env_list(name: str) -> list[str]:
    """Return the items of a variable, which are separated by commas."""
    return [item.strip() for item in env(name).split(",") if item.strip()]


def env_days(name: str, default: int) -> int:
    """Return a number of days, at least 1."""
    value = env(name, str(default))
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ImproperlyConfigured(f"{name} is {value!r}: write a number of days, 1 at least")
    return int(value)


DEBUG = env_bool("DEBUG")
SECRET_KEY = env("SECRET_KEY", "for-a-developers-machine-alone" if DEBUG else "")
if not SECRET_KEY:
    # Django itself would only notice at the first page that signs something.
    raise ImproperlyConfigured("SECRET_KEY is not set: give one, or DEBUG=1 where you develop")
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "aiecommerce.catalog",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    # A developer's `runserver` serves static files by itself.
    *([] if DEBUG else ["whitenoise.middleware.WhiteNoiseMiddleware"]),
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "aiecommerce.urls"
WSGI_APPLICATION = "aiecommerce.wsgi.application"

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

DATABASES = {
    "default": dj_database_url.config(
        default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}", conn_max_age=60, conn_health_checks=True
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # A peer that has vanished is noticed after 10 s, not after the kernel's quarter of an hour.
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        connect_timeout=5, keepalives_idle=10, tcp_user_timeout=10_000
    )
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "America/Guayaquil"
USE_TZ = True

STATIC_URL = "static/"
# If the environment names a release, each has its own directory: the previous one still serves its files while
# collectstatic writes, and a release that you go back to finds its own.
STATIC_ROOT = Path(env("STATIC_ROOT", str(BASE_DIR / "staticfiles"))) / env("CELERY_FLEET_RELEASE")

# TLS ends at the web server in front of this process. It sets this header, and lets no client set it.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
# Cookies ignore the port: under Django's own names two sites on one host would log each other's users out.
SESSION_COOKIE_NAME = "aiecommerce_sessionid"
CSRF_COOKIE_NAME = "aiecommerce_csrftoken"

# To the journal or the terminal. With DEBUG off, Django by default only mails errors.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        # Requests with other host names get a 400, and the web server's own log has them.
        "django.security.DisallowedHost": {"handlers": [], "propagate": False},
    },
}

# Celery Configuration
CELERY_BROKER_URL = env("CELERY_BROKER_URL", default="redis://127.0.0.1:6379/0")
CELERY_RESULT_BACKEND = env("CELERY_RESULT_BACKEND", default=CELERY_BROKER_URL)
CELERY_TIMEZONE = "America/Guayaquil"
CELERY_ENABLE_UTC = True
# Only for a developer's machine: tasks run within the process that sends them (README.md).
CELERY_TASK_ALWAYS_EAGER = env_bool("CELERY_TASK_ALWAYS_EAGER")
CELERY_TASK_EAGER_PROPAGATES = CELERY_TASK_ALWAYS_EAGER

# The directory of the stand-ins for the supplier's site and other sources.
CATALOG_SOURCES = Path(env("CATALOG_SOURCES", str(BASE_DIR / "aiecommerce/catalog/sources")))
# Older scrapes are pruned.
CATALOG_SCRAPE_RETENTION_DAYS = env_days("CATALOG_SCRAPE_RETENTION_DAYS", default=7)
