"""One schedule entry, as a running beat holds or drops it, and whether its time has changed."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from celery_fleet.common.errors import error_text

logger = logging.getLogger("celery_fleet.beat")

#: Where an entry is defined.
INVENTORY = "inventory"

CODE = "code"

DATABASE = "database"

REDBEAT = "redbeat"

#: The Unix time that stands for a later one, and for never: every zone can show it.
_LATEST = datetime(9999, 12, 30, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Loaded:
    """One entry of a running scheduler.

    ``due`` is its next due time in UTC (ISO 8601), ``local`` the same in the schedule's zone. ``source`` says
    where it is defined: `INVENTORY`, `CODE`, `DATABASE` or `REDBEAT`. ``last`` is its last run in UTC, or since when it
    exists, and ``runs`` the number of its runs.
    """

    name: str
    task: str
    queue: str | None
    schedule: str
    due: str
    source: str = CODE
    local: str = ""
    last: str = ""
    runs: int = 0


def due_time(due: float, zone: tzinfo) -> datetime:
    """Return a due time in a zone, for display; schedule classes of the application may return any number."""
    # Beat's drift makes due times end in .99; show whole seconds.
    return datetime.fromtimestamp(round(max(0.0, min(_LATEST, due))), zone)


def log_dropped(name: str, error: Exception) -> None:
    """Log that beat goes on without an entry that users edit, because an error shows that it can't be used."""
    logger.error(
        "the entry %s can't be used and is dropped: %s; correct it or delete it",
        name,
        error_text(error),
    )


def differs(one: Any, other: Any) -> bool:
    """Return whether two schedules have different times; False if their class does not say so."""
    if type(one) is not type(other):
        return True
    try:
        return _is_comparable(type(one)) and bool(_without_clock(one) != _without_clock(other))
    except Exception:  # noqa: BLE001  # schedules are the application's own classes
        return False


def _without_clock(schedule: Any) -> Any:
    """Return a copy without the function that tells the time: one from a file never equals another."""
    found = copy.copy(schedule)
    if getattr(found, "nowfun", None) is not None:
        found.nowfun = None
    return found


def _is_comparable(kind: Any) -> bool:
    """Return whether a class has its own comparison; otherwise one from beat's file never equals another."""
    return kind.__eq__ is not object.__eq__
