"""The tasks of the queue `maintenance`."""

from __future__ import annotations

import socket
from typing import Any

from celery import Task, shared_task
from celery.utils.log import get_task_logger
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from core import backup, database, health, logs
from core.models import MaintenanceRun
from core.running import RETRY, before

logger = get_task_logger(__name__)

# What may take longer than all others: a database grows.
LONG: dict[str, Any] = {**RETRY, "soft_time_limit": 3300, "time_limit": 3600}


@shared_task(bind=True)
def system_health_check(self: Task[Any, Any]) -> dict[str, Any]:
    """Return the fleet's last health result on this worker's host, with its age."""
    found = health.last_result(settings.HEALTH_FILE, timezone.now())
    (logger.info if found["state"] == "good" else logger.warning)("%s", found["text"])
    noted = {key: found.get(key) for key in ("state", "last_state", "age", "text")}
    try:
        MaintenanceRun.note(MaintenanceRun.Kind.HEALTH, _id(self), noted)
    except (OperationalError, InterfaceError) as error:
        # What is asked for most when the database is away does not wait for it.
        logger.warning("not noted: the database is unavailable (%s)", type(error).__name__)
    return found


@shared_task(bind=True, **RETRY)
def cleanup_system_logs(self: Task[Any, Any], days: int = 30) -> dict[str, Any]:
    """Remove rotated log files of this worker's host that are older than so many days."""
    done = logs.remove_old(settings.LOG_DIRECTORY, before(days))
    logger.info("removed %s", done["text"])
    MaintenanceRun.note(MaintenanceRun.Kind.LOGS, _id(self), done)
    return done


@shared_task(bind=True, **LONG)
def database_maintenance(self: Task[Any, Any], days: int = 90) -> dict[str, Any]:
    """Delete notes older than so many days and sessions that are over, then VACUUM and ANALYZE."""
    done = database.maintain(before(days))
    logger.info("%(tables)d tables; deleted %(deleted)s", done)
    MaintenanceRun.note(MaintenanceRun.Kind.DATABASE, _id(self), done)
    return done


@shared_task(bind=True, **LONG)
def backup_database(self: Task[Any, Any]) -> dict[str, Any]:
    """Write a backup of the database on this worker's host; the host, and the file's path, size and SHA-256."""
    # The part of a worker's name that says where it runs.
    host = str(self.request.hostname or socket.gethostname()).rpartition("@")[2]
    done = {
        "host": host,
        **backup.back_up(
            settings.BACKUP_DIRECTORY,
            connection.settings_dict,
            settings.BACKUP_KEEP,
            timezone.now(),
        ),
    }
    logger.info("%(host)s: %(path)s, %(size)d bytes, sha256 %(sha256)s", done)
    MaintenanceRun.note(MaintenanceRun.Kind.BACKUP, _id(self), done)
    return done


def _id(task: Task[Any, Any]) -> str:
    return str(task.request.id or "")
