"""Start a beat whose schedule is on the broker, with celery-redbeat."""

from __future__ import annotations

import os
from typing import Any

from celery_fleet.beat import waiting
from celery_fleet.common.errors import FleetError, refuse
from celery_fleet.compat import redbeat
from celery_fleet.supervision import broker
from celery_fleet.supervision.notify import Notifier


def prepare(app: Any, notifier: Notifier, *, standby: bool) -> None:
    """Wait for the broker, to which the scheduler writes what is declared; call it before the scheduler is created.

    With `standby`, it is one of several beats, and writes that when it leads.

    Raises:
        SystemExit: The application has no celery-redbeat.
    """
    trouble = redbeat.missing()
    if trouble:
        refuse(FleetError(f"celery_beat_scheduler is redbeat, but {trouble}"), os.environ)
    redbeat.skip_broken()
    redbeat.count_from_new_times()
    if standby:
        redbeat.write_when_leading()
    waiting.wait(broker.question(app), notifier)
