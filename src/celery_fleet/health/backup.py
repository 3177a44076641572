"""Check how old the last good backup of Redis is."""

from __future__ import annotations

import time
from pathlib import Path

from celery_fleet.common import backup_record
from celery_fleet.health.result import BAD, WARNING, Finding, worst
from celery_fleet.health.setup import Setup


def backup(setup: Setup, root: Path = Path("/"), now: float | None = None) -> Finding:
    """Check the age of the last good backup against the time between two, and report why the last one failed."""
    found = backup_record.read(backup_record.path_of(setup.app, root))
    now = time.time() if now is None else now
    if found is None:
        return Finding(WARNING, "none was tried yet", {"age_seconds": None, "name": ""})
    failed = f"; the last one failed: {found.error}" if found.error else ""
    if not found.succeeded:
        return Finding(BAD, f"there is no good one{failed}", {"age_seconds": None, "name": ""})
    if found.is_ahead(now):
        ahead = found.succeeded - now
        state = worst((WARNING, setup.state_of("backup_intervals", ahead / setup.backup)))
        text = (
            f"the time of {found.name} is {duration(ahead)} ahead of the clock, so its age is unknown; "
            f"check the clock (timedatectl), then: systemctl start {setup.app}-backup{failed}"
        )
        return Finding(state, text, {"age_seconds": None, "name": found.name})
    age = max(0.0, now - found.succeeded)
    state = setup.state_of("backup_intervals", age / setup.backup)
    value = {"age_seconds": round(age), "name": found.name}
    return Finding(state, f"{found.name}, {duration(age)} ago{failed}", value)


def duration(seconds: float) -> str:
    """Return a time in its largest whole unit: ``90 min``, ``3 h`` or ``2 days``."""
    for unit, size, least in (("days", 86400, 172800), ("h", 3600, 7200), ("min", 60, 120)):
        if seconds >= least:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
