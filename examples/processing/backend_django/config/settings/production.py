"""Everywhere but on a developer's machine. What is missing in the environment is named; nothing has a default."""

from __future__ import annotations

from .base import *  # noqa: F403
from .base import MIDDLEWARE

# Right behind SecurityMiddleware: serves what collectstatic has gathered.
MIDDLEWARE.insert(1, "whitenoise.middleware.WhiteNoiseMiddleware")
# Compressed, and under their own names. A name does not promise that the content stays: the front-end's build has
# hashes in its names, but the addresses come into the files after that.
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}

# TLS ends at the web server before this process, which says so by this header and lets no caller set it.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True

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
