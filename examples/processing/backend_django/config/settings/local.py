"""A developer's machine: everything has a default, and the environment still wins."""

from __future__ import annotations

import os
from pathlib import Path

_BASE_DIR = Path(__file__).resolve().parents[3]

for _name, _value in {
    "ENVIRONMENT": "development",
    "DJANGO_SECRET_KEY": "for-a-developers-machine-alone-" + "0" * 40,
    "DJANGO_ALLOWED_HOSTS": "localhost,127.0.0.1",
    "DATABASE_URL": f"sqlite:///{_BASE_DIR}/backend_django/db.sqlite3",
    "REDIS_URL": "redis://localhost:6379/0",
    "STATIC_ROOT": f"{_BASE_DIR}/static",
    "VITE_APP_STATIC_ROOT": "/static/frontend",
    "VITE_APP_API_ROOT": "/api/v1",
}.items():
    os.environ.setdefault(_name, _value)

from .base import *  # noqa: E402, F403

DEBUG = True
