"""What an operator sees at /admin/."""

from __future__ import annotations

from django.contrib import admin

from backend_django.site_config.models import SetupFlag

admin.site.register(SetupFlag)
