"""What gunicorn serves, as `config.wsgi:application`."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from backend_django import frontend

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.production")

if not settings.DEBUG:
    # A page with a placeholder in it would call addresses that don't exist.
    frontend.refuse_unfinished(settings.STATIC_ROOT / "frontend", settings.FRONTEND_VALUES)

application = get_wsgi_application()
