"""One schedule entry, as a running beat holds it."""

from __future__ import annotations

from dataclasses import dataclass

#: Where an entry is defined.
INVENTORY = "inventory"

CODE = "code"

DATABASE = "database"


@dataclass(frozen=True)
class Loaded:
    """One entry of a running scheduler.

    ``due`` is its next due time in UTC (ISO 8601), ``local`` the same in the schedule's zone. ``source`` says
    where it is defined: `INVENTORY`, `CODE` or `DATABASE`.
    """

    name: str
    task: str
    queue: str | None
    schedule: str
    due: str
    source: str = CODE
    local: str = ""
