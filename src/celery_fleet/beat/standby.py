"""Let a beat stand by until it is the leader, and then continue where the one before it has stopped."""

from __future__ import annotations

import logging
import math
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
from celery_fleet.compat import beat, broker, last_runs, primary, redbeat
from celery_fleet.config.entries import Missed
from celery_fleet.supervision.notify import Notifier

logger = logging.getLogger("celery_fleet.beat")

#: Seconds for connecting to the broker, and for each answer.
TIMEOUT = 3.0

#: Seconds for which the broker keeps the time of an entry that is gone. It also is the time between two looks for such
#: entries. An entry that is only switched off is saved in its database by then.
KEPT = 3600.0

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
    if on_broker:
        redbeat.write_declared(service)
    names = redbeat.names(app) if on_broker else service.scheduler.schedule
    # An entry that is added again later has missed nothing. Applications make entries with ever new names.
    leadership.forget(sent.keys() - set(names))
    run_of = None
    if on_broker:
        # The same step that sends a message also saves the run.
        run_of = redbeat.hold_runs(service, leadership.save)
    else:
        _continue(app, service, leadership, sent)
    runs = missed.install(app, service, wanted)
    # After that, so that the broker gets the time which a run makes up for: the next leader continues there.
    beat.send_by(service, leadership.send, partial(_no_longer, service), run_of)
    _forget_now_and_then(app, service, leadership)
    return runs


def _forget_now_and_then(app: Any, service: Any, leadership: Leadership) -> None:
    """Forget entries that are gone while beat runs: applications make entries with ever new names."""
    looked = time.monotonic()

    def look(pause: float) -> None:
        nonlocal looked
        # After an error, the entry that was to be sent is missing in the heap.
        if pause == math.inf or time.monotonic() - looked < KEPT:
            return
        looked = time.monotonic()
        try:
            names = (
                redbeat.names(app)
                if redbeat.holds(service)
                else beat.names(beat.events(service) or [])
            )
            old = time.time() - KEPT
            known = {name for name, moment in leadership.sent().items() if moment < old}
            leadership.forget(known - set(names))
        except redbeat.AWAY as exc:
            logger.debug("entries that are gone can't be forgotten now: %s", exc)

    beat.on_tick(service, lambda: None, look)


def _continue(app: Any, service: Any, leadership: Leadership, sent: Mapping[str, float]) -> None:
    """Let each entry count from its last run: the one that the broker knows, or a later one that this host knows.

    A single beat notes nothing on the broker, and the broker's data may have been restored from a backup. So the leader
    notes there what only this host knows, for the next one.
    """
    noted: dict[str, float] = {}
    for name, entry in service.scheduler.schedule.items():
        known = sent.get(name)
        # An entry of a file that never ran here has the time at which this host got it. Hosts share a row: if it has no
        # last run, its entry has got another time or was switched on again.
        counts = last_runs.is_shared(entry) or entry.total_run_count
        last = last_runs.last_run(app, entry) if counts else None
        own = None if last is None else last.timestamp()
        if own is not None and (known is None or own >= known):
            if own != known:
                noted[name] = own
        elif known is not None:
            last_runs.to_be_saved(service, entry, datetime.fromtimestamp(known, UTC))
            if not last_runs.is_shared(entry):
                # Otherwise it would have no last run on this host, although it has run.
                entry.total_run_count = max(1, entry.total_run_count)
    service.scheduler.sync()
    leadership.note(noted)


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
    last_runs.forget_unsaved(service)
    logger.critical("%s was not sent: another beat has become the leader, so this one stops", entry)
    raise SystemExit(0)
