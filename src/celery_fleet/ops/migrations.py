"""List the migrations that a Django application has still to run: ``python -m celery_fleet.ops.migrations RELEASE``.

``RELEASE`` is the release's directory, and ``CELERY_APP`` names the application. It only reads. Like ``manage.py
showmigrations --plan``, it asks the database ``default``, with the application's own connection. It prints one line of
JSON::

    {"ok": true, "error": null, "pending": ["shop.0003_invoice"], "one_way": ["shop.0003_invoice"]}

``pending`` is null if the application is no Django project or has no database. ``one_way`` are those of them that the
release marks as such.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celery_fleet.beat import due
from celery_fleet.common.answering import finish
from celery_fleet.common.errors import error_text
from celery_fleet.common.redact import secrets_in


def pending(module: str) -> list[str] | None:
    """Return the pending migrations in the order in which they run; None if there is nothing to ask.

    Args:
        module: The application, as ``celery -A`` names it.
    """
    # Without Django, don't spend a second or more on importing the application.
    if find_spec("django") is None:
        return None
    due.load(module)
    import django
    from django.apps import apps
    from django.conf import settings

    # The Celery module of a Django project names the settings.
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return None
    from django.db import DEFAULT_DB_ALIAS, connections
    from django.db.migrations.executor import MigrationExecutor

    if not apps.ready:
        django.setup()
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor == "unknown":  # DATABASES is empty
        return None
    executor = MigrationExecutor(connection)
    steps = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in steps]


def answer(module: str, release: Path) -> dict[str, Any]:
    """Return the document to print."""
    try:
        found = pending(module)
        one_way = json.loads((release / "release.json").read_text()).get("one_way") or []
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the application and its driver may raise anything
        what = error_text(error, _secrets())
        return {"ok": False, "error": f"{type(error).__name__}: {what}"}
    known = [name for name in found or () if name in one_way]
    return {"ok": True, "error": None, "pending": found, "one_way": known}


def _secrets() -> set[str]:
    """Return the secrets in the settings of the databases, which a driver may repeat."""
    try:
        from django.db import connections

        return secrets_in(connections.databases)
    except (Exception, SystemExit):  # noqa: BLE001  # settings that can't be read have none to show
        return set()


if __name__ == "__main__":
    finish(lambda: answer(os.environ.get("CELERY_APP", ""), Path(sys.argv[1])))
