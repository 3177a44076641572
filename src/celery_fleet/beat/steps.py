"""Beat's readiness, status and watchdog."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

from celery import signals

from celery_fleet.beat import missed as missed_runs
from celery_fleet.beat import standby as election
from celery_fleet.beat.loaded import DIRECTORY_VARIABLE, Looks, Tick, Writer
from celery_fleet.beat.metrics import BeatMetrics
from celery_fleet.beat.missed import MissedRuns
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.compat import beat, clock_changes, last_runs, redbeat
from celery_fleet.compat.minors import chosen as minors
from celery_fleet.compat.schedule import DATABASE, REDBEAT, Loaded, due_time
from celery_fleet.config.entries import Missed
from celery_fleet.config.pins import PinnedSchedule
from celery_fleet.supervision import broker
from celery_fleet.supervision.notify import Notifier
from celery_fleet.supervision.watch import ProcessStatus, State, Watch

logger = logging.getLogger("celery_fleet.beat")

#: Seconds that a tick may take longer than beat's own pause.
TICK_LIMIT = 10.0

#: Seconds that beat's stop waits for the tick in which it comes; the unit's TimeoutStopSec= is longer.
STOP_LIMIT = 5.0


class Progress:
    """The last activity of beat's thread, which writes it; the watchdog's thread reads it."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.last = time.monotonic()
        self.scheduled: tuple[int, float, str] | None = None
        self.stopping = False
        #: What beat waits for although it ticks: the database of its schedule.
        self.trouble: str | None = None

    @property
    def age(self) -> float:
        """Return the seconds since beat's last sign of life."""
        return time.monotonic() - self.last

    def planned(self, name: str) -> float | None:
        """Return the Unix time for which an entry was planned, if it was the next one when the last tick ended."""
        if self.scheduled is None or self.scheduled[2] != name:
            return None
        return self.scheduled[1]


def observe(progress: Progress, broker_answered: bool) -> ProcessStatus:
    """Return what beat's progress shows; until the broker has answered once, beat counts as starting."""
    if progress.stopping:
        return ProcessStatus(State.DRAINING, "saving the schedule")
    if not broker_answered:
        return ProcessStatus(State.STARTING, "schedule loaded, connecting to the broker")
    if progress.age > progress.interval + TICK_LIMIT:
        return ProcessStatus(State.STUCK, "stuck: beat's loop does not run")
    if progress.trouble is not None:
        return ProcessStatus(State.WORKING, f"waiting for {progress.trouble}; {describe(progress)}")
    return ProcessStatus(State.WORKING, describe(progress))


def describe(progress: Progress) -> str:
    """Return ``12 entries, next recompute-all at 2026-01-02 03:00:00 UTC``."""
    if progress.scheduled is None:
        return "schedule loaded"
    number, due, name = progress.scheduled
    entries = f"{number} entr{'y' if number == 1 else 'ies'}"
    return f"{entries}, next {name} at {due_time(due, UTC):%Y-%m-%d %H:%M:%S} UTC"


def install(
    app: Any,
    notifier: Notifier,
    log_precedence: Callable[[Any], None],
    *,
    in_database: bool = False,
    metrics: str | None = None,
    missed: Mapping[str, Missed] | None = None,
    standby: bool = False,
) -> None:
    """Watch the beat of this process from the moment when its schedule is loaded.

    ``metrics`` is the file for its counters; None if it keeps none. ``missed`` says what happens to missed runs, by
    entry. ``standby`` says that it is one of several beats, of which one sends.

    ``beat_init`` marks that moment: just before Service.start sends it, it builds the scheduler, which
    loads the schedule.
    """
    clock_changes.install()
    minors.celery.keep_ticking()
    beat.keep_schedule_in(ScheduleFile)
    last_runs.count_from_new_times()

    def started(sender: Any = None, **_: Any) -> None:
        log_precedence(app)
        if standby:
            runs = election.elected(
                app,
                sender,
                notifier,
                lambda: show(app, sender, in_database=in_database),
                missed or {},
            )
        else:
            runs = missed_runs.install(app, sender, missed or {})
        if notifier.connected:
            watch = watch_service(
                app,
                sender,
                notifier,
                in_database=in_database,
                metrics=metrics,
                missed=runs,
                standby=standby,
            )
            atexit.register(watch.stop)
            watch.start()
        beat.finish_tick_before_stop(sender, STOP_LIMIT)

    signals.beat_init.connect(started, weak=False, dispatch_uid="celery_fleet.beat")


def show(app: Any, service: Any, *, in_database: bool) -> None:
    """Write what a beat has loaded that does not send, for the fleet's checks."""
    held = beat.loaded(app, beat.events_before(service), _declared(app))
    writer = Writer(os.environ.get(DIRECTORY_VARIABLE))
    writer.write(_sourced(app, held, in_database), str(app.timezone), stands_by=True)


def _declared(app: Any) -> frozenset[str]:
    """Return the names of the inventory's entries."""
    schedule = app.conf.beat_schedule
    return schedule.own if isinstance(schedule, PinnedSchedule) else frozenset()


def _sourced(app: Any, held: list[Loaded], in_database: bool) -> list[Loaded]:
    """Return entries with their source, if they were read from where users edit them."""
    if in_database:
        return [replace(entry, source=DATABASE) for entry in held]
    if redbeat.is_used(app):
        declared = app.conf.beat_schedule or {}
        return [
            entry if entry.name in declared else replace(entry, source=REDBEAT) for entry in held
        ]
    return held


def watch_service(
    app: Any,
    service: Any,
    notifier: Notifier,
    *,
    in_database: bool = False,
    metrics: str | None = None,
    missed: MissedRuns | None = None,
    standby: bool = False,
) -> Watch:
    """Hook into a beat service; return its watch, which is not started yet."""
    progress = Progress(beat.loop_interval(service))
    database: broker.Question | None = None
    if in_database:
        from celery_fleet.beat.database import scheduler as database_beat

        # This comes first, so that a tick that fails because of the database counts as a sign of life.
        database_beat.guard(
            service, lambda trouble: setattr(progress, "trouble", trouble), standby=standby
        )
        database = database_beat.question()
    if redbeat.holds(service):
        redbeat.guard(service, lambda trouble: setattr(progress, "trouble", trouble))
    answered = [False]
    writer = Writer(os.environ.get(DIRECTORY_VARIABLE))
    tick = Tick(os.environ.get(DIRECTORY_VARIABLE))
    runs = missed or MissedRuns()
    counters = None if metrics is None else BeatMetrics(Path(metrics), runs.skipped)
    own = _declared(app)
    routes: dict[Any, Any] = {}
    looks = Looks()

    def note() -> None:
        progress.last = time.monotonic()
        # During a tick, an entry may be out of the heap, to be sent.
        looks.behind = False

    told = [False]

    def look(at_all: bool) -> None:
        try:
            if not at_all:
                progress.scheduled = beat.next_due(service) or progress.scheduled
                return
            events = beat.events(service)
            if events is None:
                return
            # A signal that stops beat may come while an entry is out of the heap, to be sent.
            if counters is not None and not progress.stopping:
                counters.note(beat.names(events))
            progress.scheduled = beat.scheduled(events)
            held = beat.loaded(app, events, own, routes)
            writer.write(_sourced(app, held, in_database), str(app.timezone))
        except redbeat.AWAY:
            # The next tick tells of it.
            return
        except Exception:
            # This runs in beat's own loop: an error in the application's schedule classes must not stop beat.
            if not told[0]:
                told[0] = True
                logger.exception("beat's schedule can't be shown")

    def note_tick(pause: float) -> None:
        progress.last = time.monotonic()
        tick.note()
        due = looks.due(pause)
        look(at_all=due)
        if due:
            looks.ended()

    def note_send(entry: Any, sent: bool) -> None:
        # A stop in the middle of a send makes it fail, because it closes the schedule's file.
        name = str(entry.name)
        missed_time = runs.sent(name)
        if counters is None or progress.stopping:
            return
        if missed_time is not None:
            counters.count_missed(name, sent)
        else:
            counters.count(entry, sent, progress.planned(name))

    def note_stop() -> None:
        if looks.behind:
            look(at_all=True)
        looks.behind, progress.stopping = False, True
        if counters is not None:
            counters.write()

    beat.on_tick(service, note, note_tick)
    beat.on_stop(service, note_stop)
    beat.on_send(service, note_send)
    question = broker.question(app)

    def ask() -> str | None:
        trouble = question()
        answered[0] = answered[0] or trouble is None
        # A database that hangs blocks beat's loop, just like a broker.
        return trouble or (None if database is None else database.ask())

    return Watch(notifier, lambda: observe(progress, answered[0]), ask)
