"""A header that says when a message was sent, so that workers know how long it waited.

Celery puts no time into a message. Each process of the fleet that sends tasks adds it here. A retry is sent as a new
message, so it has a new time. A message that returns to its queue (hand-back, redelivery) is the same one and keeps its
time. A dead letter has not waited for a worker, so its replay counts as a new sending; another header keeps the first
time. Senders outside of the fleet add none.
"""

from __future__ import annotations

import time
from typing import Any

from celery import signals

from celery_fleet.delivery.keys import FIRST_SENT, SENT

#: Later times than this are none (Unix time, in the year 2242).
LATEST = 1 << 33


def install() -> None:
    """Add the header to everything that this process sends from now on; repeatable."""
    signals.before_task_publish.connect(_add, weak=False, dispatch_uid="celery_fleet.sending_time")


def _add(headers: dict[str, Any], **_: Any) -> None:
    headers[SENT] = round(time.time(), 3)
    # A retry copies the headers of the message before it.
    headers.pop(FIRST_SENT, None)


def sent_at(message: Any) -> float | None:
    """Return when a kombu message was sent or replayed (Unix time); None if it does not say."""
    return _time_in(message, SENT)


def first_sent_at(message: Any) -> float | None:
    """Return when a kombu message was sent, before any replay (Unix time); None if it does not say."""
    found = _time_in(message, FIRST_SENT)
    return sent_at(message) if found is None else found


def _time_in(message: Any, name: str) -> float | None:
    found = (message.headers or {}).get(name)
    # Any sender can write anything there. Comparing it can't overflow.
    if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < LATEST:
        return float(found)
    return None
