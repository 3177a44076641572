"""Let a beat stand by until it is the leader, and then continue where the one before it has stopped."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from celery_fleet.beat import missed
from celery_fleet.beat.leadership import ATTEMPT, Leadership, Renewal
from celery_fleet.beat.loaded import DIRECTORY_VARIABLE, Tick
from celery_fleet.beat.missed import MissedRuns
from celery_fleet.compat import beat, broker, primary, redbeat
from celery_fleet.config.entries import Missed
from celery_fleet.supervision.notify import Notifier

logger = logging.getLogger("celery_fleet.beat")

#: Seconds for connecting to the broker, and for each answer.
TIMEOUT = 3.0

#: What a beat says that does not send.
STANDING_BY = "standing by: another beat sends"


def lead(app: Any, service: Any, notifier: Notifier, show: Callable[[], None]) -> Leadership:
    """Wait until this beat is the leader, and renew that until it ends.

    Args:
        app: The Celery app.
        service: Beat's service, whose loop has not begun.
        notifier: Tells systemd that the unit is up, and feeds its watchdog.
        show: Writes what beat has loaded, for the fleet's checks.
    """
    token = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
    options = app.connection_for_write().transport_options
    replicas = int(options.get(primary.WAIT_REPLICAS) or 0)
    leadership = Leadership(broker.client(broker.endpoints(app)[0], TIMEOUT), token, replicas)
    wait(leadership, notifier, show)
    renewal = Renewal(leadership, _step_down)

    def give_up() -> None:
        renewal.stop()
        leadership.give_up()

    beat.on_stop(service, give_up)
    renewal.start()
    logger.info("this beat sends now")
    return leadership


def elected(
    app: Any,
    service: Any,
    notifier: Notifier,
    show: Callable[[], None],
    wanted: Mapping[str, Missed],
) -> MissedRuns:
    """Wait until this beat is the leader, and let it take over; see `lead` and `take_over`.

    Raises:
        SystemExit: An error. Celery would ignore it, and beat would send without being the leader.
    """
    try:
        return take_over(app, service, lead(app, service, notifier, show), wanted)
    except Exception as exc:
        logger.critical("this beat can't take over, so it stops", exc_info=True)
        raise SystemExit(1) from exc


def take_over(
    app: Any, service: Any, leadership: Leadership, wanted: Mapping[str, Missed]
) -> MissedRuns:
    """Let beat continue from the runs of the leader before it, and send only while it is the leader.

    Args:
        app: The Celery app.
        service: Beat's service, whose loop has not begun.
        leadership: Its part in the election, which it has won.
        wanted: What happens to missed runs, by entry.
    """
    sent = leadership.sent()
    on_broker = redbeat.holds(service)
    names = beat.names(redbeat.events(app)) if on_broker else service.scheduler.schedule
    # An entry that is added again later has missed nothing. Applications make entries with ever new names.
    leadership.forget(sent.keys() - set(names))
    run_of = None
    if on_broker:
        # The same step that sends a message also saves the run.
        run_of = redbeat.hold_runs(service, leadership.save)
    else:
        for name, moment in sent.items():
            entry = beat.find(service, name)
            if entry is not None:
                beat.ran_at(service, entry, datetime.fromtimestamp(moment, UTC))
    runs = missed.install(app, service, wanted)
    # After that, so that the broker gets the time which a run makes up for: the next leader continues there.
    beat.send_by(service, leadership.send, partial(_no_longer, service), run_of)
    return runs


def wait(leadership: Leadership, notifier: Notifier, show: Callable[[], None]) -> None:
    """Wait until this beat is the leader. Meanwhile the unit is up, because there is nothing more to wait for."""
    tick = Tick(os.environ.get(DIRECTORY_VARIABLE))
    stands_by = False
    while True:
        try:
            if leadership.take():
                return
            trouble = ""
            if not stands_by:
                # The schedule may be on the broker, too.
                show()
        except RedisError as exc:
            trouble = f"waiting for the broker: {exc}"
        if not stands_by and not trouble:
            notifier.ready(STANDING_BY)
            logger.info("another beat sends; this one takes over when that one ends")
            stands_by = True
        if stands_by:
            notifier.status(trouble or STANDING_BY)
            tick.note()
        notifier.feed()
        time.sleep(ATTEMPT)


def _step_down() -> None:
    """End beat in order, as systemd does; the unit starts again and stands by."""
    logger.critical("another beat has become the leader, so this one stops")
    os.kill(os.getpid(), signal.SIGTERM)


def _no_longer(service: Any, entry: str) -> None:
    """End beat in the middle of a send, whose run must not be saved.

    Raises:
        SystemExit: always.
    """
    beat.forget_unsaved(service)
    logger.critical("%s was not sent: another beat has become the leader, so this one stops", entry)
    raise SystemExit(0)
