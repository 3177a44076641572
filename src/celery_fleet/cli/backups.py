"""Read how the last backup of Redis went, on the host that makes them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery_fleet.cli import output
from celery_fleet.cli.application import Application
from celery_fleet.common import backup_record
from celery_fleet.common.backup_record import BackupRecord

ROOT = Path("/")
#: The last good backup may be as old as so many times the time between two.
INTERVALS = 2


@dataclass(frozen=True)
class BackupStatus:
    """The last backup. Without a record, none was tried yet."""

    record: BackupRecord | None
    #: What is wrong; empty if nothing is.
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return its form in JSON: times are Unix times, or null."""
        return {
            "name": self.record.name if self.record else "",
            "succeeded": (self.record.succeeded or None) if self.record else None,
            "tried": self.record.tried if self.record else None,
            "error": self.record.error if self.record else "",
        }


def last_backup(application: Application) -> BackupStatus | None:
    """Return how the last backup went; None if this host makes none."""
    if not application.backup:
        return None
    try:
        found = backup_record.read(backup_record.path_of(application.name, ROOT))
    except (OSError, ValueError) as error:
        return BackupStatus(None, f"the last backup of Redis is unknown: {error}")
    if found is None:
        return BackupStatus(None)
    why = f": {found.error}" if found.error else ""
    if not found.succeeded:
        return BackupStatus(found, f"there is no good backup of Redis{why}")
    if found.is_ahead(time.time()):
        return BackupStatus(
            found, f"the time of the last good backup of Redis is ahead of the clock{why}"
        )
    if time.time() - found.succeeded > INTERVALS * application.backup:
        return BackupStatus(found, f"the last good backup of Redis is too old{why}")
    return BackupStatus(found)


def show(found: BackupStatus | None) -> None:
    """Print the last good backup with its age; nothing on a host without backups."""
    if found is None:
        return
    if found.record is None:
        output.say("Last good backup of Redis: none was tried yet\n")
    elif found.record.succeeded:
        since = output.ago(datetime.fromtimestamp(found.record.succeeded, UTC))
        when = "dated in the future" if found.record.is_ahead(time.time()) else f"{since} ago"
        failed = "; the last one failed" if found.record.error else ""
        output.say(f"Last good backup of Redis: {found.record.name}, {when}{failed}\n")
