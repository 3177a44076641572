"""Let entries count from now if they ran last by a clock that was ahead. Beat would not send them before that time.

A crontab that has at most one slot until then stays as it is: that slot is the one for which it was sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from celery_fleet.beat.slots import GRACE, is_interval, slots
from celery_fleet.compat import beat, last_runs, redbeat

logger = logging.getLogger("celery_fleet.beat")

#: Seconds until the first look at all entries, and between two. A host may boot with a clock that is behind, and has
#: asked its time server by then. Until it has, all runs seem to be in the future.
PAUSE = 600.0


def watch(
    app: Any,
    service: Any,
    note: Callable[[Mapping[str, float]], None] = lambda runs: None,
) -> None:
    """Look at all entries now and then, and as soon as the clock is put back by more than a minute.

    Args:
        app: The application.
        service: Beat's service, whose loop has not begun.
        note: Notes for the next beat when entries ran last, in Unix time.
    """
    looked = time.monotonic()
    ahead = time.time() - looked

    def look() -> None:
        nonlocal looked, ahead
        now = time.monotonic()
        found = time.time() - now
        if found < ahead - GRACE or now - looked >= PAUSE:
            try:
                held = beat.events(service)
                if held is None:
                    return
                _correct(app, service, held, note)
            except redbeat.AWAY as exc:
                # The next tick looks again.
                logger.debug("last runs can't be compared with the clock now: %s", exc)
                return
            looked = now
        ahead = found

    beat.on_tick(service, look, lambda pause: None)


def _correct(
    app: Any, service: Any, held: beat.Events, note: Callable[[Mapping[str, float]], None]
) -> None:
    now = app.now().astimezone(UTC)
    wrong = [entry for _, entry in held if _would_wait(app, entry, now)]
    if not wrong:
        return
    note({str(entry.name): now.timestamp() for entry in wrong})
    for entry in wrong:
        logger.warning(
            "%s ran last at %s by a clock that was ahead, so it counts from now",
            entry.name,
            f"{last_runs.last_run(app, entry):%Y-%m-%d %H:%M:%S %Z}",
        )
    last_runs.count_again_from(service, wrong, now)


def _would_wait(app: Any, entry: Any, now: datetime) -> bool:
    """Return whether an entry's last run is in the future, and it would miss slots until then."""
    try:
        last = last_runs.last_run(app, entry)
        if last is None or (last - now).total_seconds() <= GRACE:
            return False
        schedule = entry.schedule
        since = now.astimezone(last.tzinfo)
        return is_interval(schedule) or len(slots(schedule, since, last, 2)) > 1
    except Exception:  # noqa: BLE001  # schedules are the application's own classes
        return False
