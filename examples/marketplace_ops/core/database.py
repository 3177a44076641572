"""Maintenance of the database: old rows go, and the planner learns what is left."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib.sessions.models import Session
from django.db import connection
from django.utils import timezone

from core.models import MaintenanceRun


def delete_old(before: datetime) -> dict[str, int]:
    """Delete rows that are no longer read: the core's own records from `before`, and sessions that are over."""
    notes, _ = MaintenanceRun.objects.filter(ran_at__lt=before).delete()
    sessions, _ = Session.objects.filter(expire_date__lt=timezone.now()).delete()
    return {"notes": notes, "sessions": sessions}


def vacuum() -> list[str]:
    """Give back the room of dead rows, and gather statistics; the tables, all of the application's own.

    VACUUM is refused within a transaction, so this one must not have begun any.
    """
    if connection.in_atomic_block:
        raise RuntimeError("VACUUM can't run within a transaction")
    with connection.cursor() as cursor:
        tables = sorted(connection.introspection.table_names(cursor))
        if connection.vendor == "postgresql":
            for table in tables:
                # A locked table is left for the next time, so nothing waits behind this.
                name = connection.ops.quote_name(table)
                cursor.execute(f"VACUUM (ANALYZE, SKIP_LOCKED) {name}")
        else:
            cursor.execute("VACUUM")
            cursor.execute("ANALYZE")
    return tables


def maintain(before: datetime) -> dict[str, Any]:
    """Both, in this order: what was deleted is what VACUUM finds."""
    deleted = delete_old(before)
    return {"deleted": deleted, "tables": len(vacuum())}
