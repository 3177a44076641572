"""Start a beat whose schedule is on the broker, with celery-redbeat."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from celery_fleet.common.errors import FleetError, error_text, refuse
from celery_fleet.compat import redbeat
from celery_fleet.supervision.notify import Notifier

#: Seconds between two attempts.
PAUSE = 2.0


def prepare(app: Any, notifier: Notifier, pause: float = PAUSE) -> None:
    """Wait for the broker, where the scheduler writes what is declared; call it before the scheduler is created.

    Raises:
        SystemExit: The application has no celery-redbeat.
    """
    trouble = redbeat.missing()
    if trouble:
        refuse(FleetError(f"celery_beat_scheduler is redbeat, but {trouble}"), os.environ)
    redbeat.skip_broken()
    said = False
    while True:
        try:
            app.redbeat_redis.ping()
            return
        except redbeat.AWAY as error:
            why = f"waiting for the broker: {error_text(error)}"
        notifier.status(why)
        if not said:
            # Logging is not set up yet.
            print(f"celery_fleet: {why}", file=sys.stderr, flush=True)
            said = True
        time.sleep(pause)
