"""How Celery runs a task of this project, for each of its apps."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import InterfaceError, OperationalError
from django.utils import timezone


class SourceUnavailable(Exception):
    """A supplier or a marketplace doesn't answer, or with something else than it should; it may the next time."""


# While the database or a source is away, tries again after up to 2, 4, 8 … 60 s. Safe: each task can be run again.
RETRY: dict[str, Any] = {
    "autoretry_for": (OperationalError, InterfaceError, SourceUnavailable),
    "retry_backoff": 2,
    "retry_backoff_max": 60,
    "max_retries": 6,
}

# Limit for each worker, for tasks that call other companies' interfaces: what these tolerate, however many tasks wait.
ASKS_OTHERS: dict[str, Any] = {**RETRY, "rate_limit": "120/m"}


def before(days: int) -> datetime:
    """The moment so many days ago. Raises ValueError for less than one: what is of today is never old."""
    if days < 1:
        raise ValueError(f"days is {days}, and has to be 1 or more")
    return timezone.now() - timedelta(days=days)


def day_of(text: str | None) -> date:
    """A day of the calendar in UTC, as 2026-11-20; without one it is yesterday, the last that is whole."""
    if text is None:
        return (timezone.now().astimezone(UTC) - timedelta(days=1)).date()
    try:
        return date.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"{text!r} is no day; give it as 2026-11-20") from None


def bounds(day: date) -> tuple[datetime, datetime]:
    """Return the first moment of a day in UTC, and that of the next one."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return begin, begin + timedelta(days=1)
