"""One schedule entry, as a running beat holds it."""

from __future__ import annotations

from dataclasses import dataclass

#: Where an entry is defined.
INVENTORY = "inventory"

CODE = "code"

DATABASE = "database"

REDBEAT = "redbeat"


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
