"""The project's configuration.

The document runs `celery -A config.celery_app` in backend_django and imports `backend_django.site_config` from outside
of it. Every process imports this package, which makes both possible.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PROJECT = str(Path(__file__).resolve().parents[2])
if _PROJECT not in sys.path:
    # At the end: what else is found by its name stays what it was.
    sys.path.append(_PROJECT)

# `@shared_task` then finds this application in every process. After the path, which the settings need.
from config.celery_app import app as celery_app  # noqa: E402

__all__ = ["celery_app"]
