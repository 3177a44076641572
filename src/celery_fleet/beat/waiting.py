"""Let a beat wait, before its scheduler is created, for the server that has its schedule."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from celery_fleet.supervision.notify import Notifier

#: Seconds between two attempts.
PAUSE = 2.0


def wait(ask: Callable[[], str | None], notifier: Notifier, pause: float = PAUSE) -> None:
    """Wait until a server answers, and say meanwhile for what.

    Args:
        ask: Returns which server does not answer and why; None if it does.
        notifier: Gets the status of the unit.
        pause: Seconds between two attempts.
    """
    said = False
    while (why := ask()) is not None:
        notifier.status(f"waiting for {why}")
        if not said:
            # Logging is not set up yet.
            print(f"celery_fleet: waiting for {why}", file=sys.stderr, flush=True)
            said = True
        time.sleep(pause)
