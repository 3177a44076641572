# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Beat's scheduler, its entries and their due times (celery/beat.py)."""

from __future__ import annotations

import hashlib
import math
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from threading import Timer
from types import FrameType
from typing import Any

from celery import beat
from celery.schedules import schedstate
from celery.utils.time import maybe_make_aware
from kombu.transport import redis as kombu_redis
from kombu.utils import json as kombu_json

from celery_fleet.compat import last_runs, redbeat
from celery_fleet.compat.redbeat import RunToSave
from celery_fleet.compat.schedule import CODE, INVENTORY, Loaded, due_time

# Its types are incomplete, which is worse than no types at all.
stock: Any = kombu_redis
json: Any = kombu_json


def on_tick(service: Any, before: Callable[[], None], after: Callable[[float], None]) -> None:
    """Call ``before`` and ``after`` around each tick, in beat's own thread.

    ``after`` gets the seconds until the next tick; infinity after an error.
    """
    tick = service.scheduler.tick

    def timed_tick(*args: Any, **kwargs: Any) -> Any:
        pause: Any = math.inf
        before()
        try:
            pause = tick(*args, **kwargs)
            return pause
        finally:
            after(pause or 0.0)

    service.scheduler.tick = timed_tick  # Service.start looks it up on the instance each time


def finish_tick_before_stop(service: Any, limit: float) -> None:
    """Let a signal that stops beat wait for the tick in which it comes; call this in beat's main thread.

    Celery's own handler closes the schedule and the connection at once. In the middle of a send, that loses the
    entry's run, because the schedule says already that it was sent. And Redis's client may replace the handler's
    SystemExit by an error of the closed connection; Celery logs that, and beat goes on until it fails.

    A tick sends at most one task. If it takes longer than ``limit`` seconds, as while the broker is away, or if
    a second signal comes, Celery's own handler runs.
    """
    own: dict[int, Any] = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    own[signal.SIGHUP] = own[signal.SIGTERM]  # Celery handles no SIGHUP, so it would kill beat
    ticking = False
    asked: Timer | None = None
    tick = service.scheduler.tick

    def waiting(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if ticking and asked is None:
            asked = Timer(limit, os.kill, (os.getpid(), number))
            asked.daemon = True
            asked.start()
            return
        own[number](number, frame)

    def guarded_tick(*args: Any, **kwargs: Any) -> Any:
        nonlocal ticking
        ticking = True
        try:
            return tick(*args, **kwargs)
        finally:
            ticking = False
            if asked is not None:
                asked.cancel()
                raise SystemExit

    service.scheduler.tick = guarded_tick  # Service.start looks it up on the instance each time
    for number in own:
        signal.signal(number, waiting)


def keep_schedule_in(store: Any) -> None:
    """Have beats keep their schedule in ``store``, which has ``open`` as ``shelve`` has, unless it is elsewhere."""
    beat.PersistentScheduler.persistence = store


def loop_interval(service: Any) -> float:
    """Return the longest sleep between two ticks, in seconds."""
    return float(service.scheduler.max_interval)


def on_stop(service: Any, called: Callable[[], None]) -> None:
    """Call ``called`` when beat saves its schedule to stop; its signal handler does that first."""
    sync = service.sync

    def announced_sync() -> Any:
        called()
        return sync()

    service.sync = announced_sync


def on_send(service: Any, called: Callable[[Any, bool], None]) -> None:
    """Call ``called`` after each attempt to send, with the entry as it was before and whether it was sent.

    Scheduler.apply_entry logs an error of apply_async, and beat goes on.
    """
    send = service.scheduler.apply_async

    def told_send(entry: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = send(entry, *args, **kwargs)
        except Exception:
            called(entry, False)
            raise
        called(entry, True)
        return result

    service.scheduler.apply_async = told_send  # apply_entry looks it up on the instance


def find(service: Any, name: str) -> Any:
    """Return an entry of the schedule before the first tick; None if there is none of this name."""
    if redbeat.holds(service):
        return redbeat.entry(service.app, name)
    return service.scheduler.schedule.get(name)


def send_for_each(
    service: Any, left: Mapping[str, list[datetime]], take: Callable[[str], datetime | None]
) -> None:
    """Send overdue entries once for each of the times that are left, the oldest first.

    Each run is saved with its own time as that of the last run. So a beat that dies in between continues there.

    Args:
        service: Beat's service.
        left: Times by entry.
        take: Takes the next time of an entry off; returns None if none is left.
    """
    scheduler = service.scheduler
    is_due, reserve = scheduler.is_due, scheduler.reserve

    def is_due_again(entry: Any) -> Any:
        found = is_due(entry)
        times = left.get(entry.name)
        if not times or not found[0]:
            return found
        if len(times) > 1:
            return schedstate(True, 0)
        following = entry.schedule.remaining_estimate(times[0].astimezone(service.app.timezone))
        return schedstate(True, max(0.0, following.total_seconds()))

    def reserve_next(entry: Any) -> Any:
        made = reserve(entry)
        moment = take(entry.name)
        if moment is not None:
            last_runs.set_last_run(service.app, made, moment)
        return made

    scheduler.is_due, scheduler.reserve = is_due_again, reserve_next
    if redbeat.holds(service):
        redbeat.tick_at_once(service, lambda: any(left.values()))


def send_by(
    service: Any,
    send: Callable[[str, str, str, str, str, RunToSave | None], bool],
    refused: Callable[[str], None],
    run_of: Callable[[str], RunToSave] | None = None,
) -> None:
    """Push the messages of entries with another function, in place of kombu's LPUSH.

    Args:
        service: Beat's service.
        send: Gets the entry's name, the time of its run, the key of the queue's list, what identifies the message, the
            message, and what to save; returns whether the message may be sent.
        refused: Called with the entry's name if it may not.
        run_of: Returns what to save by the entry's name, if the schedule is on the broker.
    """
    scheduler = service.scheduler
    reserve, apply_async = scheduler.reserve, scheduler.apply_async
    should_sync = scheduler.should_sync
    times: dict[str, str] = {}
    sending: list[str] = []

    def reserve_noted(entry: Any) -> Any:
        made = reserve(entry)
        # A later run is never at the same microsecond.
        times[str(made.name)] = f"{maybe_make_aware(made.last_run_at).timestamp():.6f}"
        return made

    def apply_noted(entry: Any, *args: Any, **kwargs: Any) -> Any:
        sending[:] = [str(entry.name), str(entry.task)]
        try:
            return apply_async(entry, *args, **kwargs)
        except BaseException:
            if run_of is None:
                last_runs.was_not_sent(service, entry)
            raise
        finally:
            sending.clear()
            times.pop(str(entry.name), None)
            if should_sync():
                scheduler._do_sync()

    put = stock.Channel._put

    def put_by(channel: Any, queue: str, message: Any, **kwargs: Any) -> Any:
        # Meanwhile, the application's handlers of signals may send tasks of their own.
        if not sending or (message.get("headers") or {}).get("task", sending[1]) != sending[1]:
            return put(channel, queue, message, **kwargs)
        name = sending[0]
        priority = channel._get_message_priority(message, reverse=False)
        key, run = channel._q_for_pri(queue, priority), None if run_of is None else run_of(name)
        if not send(name, times[name], key, _identity(message), json.dumps(message), run):
            refused(name)
        return None

    def should_sync_between_sends() -> bool:
        # Celery saves at the end of its `apply_async`: the run, too, of an entry that could not be sent.
        return not sending and bool(should_sync())

    scheduler.reserve, scheduler.apply_async = reserve_noted, apply_noted
    scheduler.should_sync = should_sync_between_sends
    stock.Channel._put = put_by


def _identity(message: Mapping[str, Any]) -> str:
    """Return what kombu's further attempts to send a message have in common, and other messages don't have."""
    known = (message.get("headers") or {}).get("id")
    # In older messages of Celery the body has the id.
    return str(known or hashlib.sha256(repr(message["body"]).encode()).hexdigest())


#: The entries of a scheduler with the Unix times at which they are due next, the first one first.
Events = list[tuple[float, Any]]


def events(service: Any) -> Events | None:
    """Return all entries; None before the first tick.

    Call this only in beat's own thread, because the heap changes while beat ticks. Don't use ``scheduler.schedule``,
    which queries the database or has only what is due.

    Raises:
        redis.exceptions.RedisError: The broker, which has the schedule, does not answer.
    """
    if redbeat.holds(service):
        return redbeat.events(service.app)
    heap = getattr(service.scheduler, "_heap", None)
    if heap is None:
        return None
    return sorted(((float(one.time), one.entry) for one in heap), key=itemgetter(0))


def names(held: Events) -> list[str]:
    """Return the names of entries."""
    return [str(entry.name) for _, entry in held]


def scheduled(held: Events) -> tuple[int, float, str] | None:
    """Return the number of entries, and the Unix time and name of the next due one; None if there are none."""
    if not held:
        return None
    due, entry = held[0]
    return len(held), due, str(entry.name)


def next_due(service: Any) -> tuple[int, float, str] | None:
    """Return the same as `scheduled`, without a look at each entry; None if the scheduler has no heap."""
    heap = getattr(service.scheduler, "_heap", None)
    if not heap:
        return None
    return len(heap), float(heap[0].time), str(heap[0].entry.name)


def beat_entry(app: Any, name: str, entry: Any) -> Any:
    """Return an entry of ``beat_schedule`` as the scheduler loads it (Scheduler._maybe_entry)."""
    if isinstance(entry, beat.ScheduleEntry):
        entry.app = app
        return entry
    return beat.ScheduleEntry(**dict(entry, name=name, app=app))


def queue_of(
    app: Any, task: str, options: Mapping[str, Any], args: Any = (), kwargs: Any = None
) -> tuple[str | None, bool]:
    """Return the queue that beat sends a task to, and whether it was chosen without the routes.

    The queue is None if only an exchange is named. The order is that of Task.apply_async and
    Celery.send_task: the entry's options, the task's options, its route, the default queue.
    """
    registered = app.tasks.get(task)
    own = {} if registered is None else dict(registered._get_exec_options())
    given = {**own, **options}
    queue = given.get("queue")
    if queue is None and given.get("exchange") is not None:
        return None, True
    fixed = queue is not None
    if not fixed:
        route = app.amqp.router.route(given, task, args, kwargs, registered)
        queue = route.get("queue")
        # A route may only set other options, such as a priority.
        if queue is None and route.get("exchange") is None:
            queue = app.conf.task_default_queue
    return None if queue is None else str(getattr(queue, "name", queue)), fixed


def loaded(
    app: Any, held: Events, own: Iterable[str] = (), known: dict[Any, Any] | None = None
) -> list[Loaded]:
    """Return what `events` has found, for display.

    ``own`` are the names of the inventory's entries. ``known`` caches the queue of each entry between calls,
    because routes may be the application's own functions.
    """
    inventory = frozenset(own)
    cache = {} if known is None else known
    if len(cache) > len(held):  # applications make entries with ever new names
        for key in cache.keys() - {_route_key(entry) for _, entry in held}:
            del cache[key]
    return [
        Loaded(
            name=str(entry.name),
            task=str(entry.task),
            queue=_queue_of(app, entry, cache),
            schedule=_text_of(entry.schedule),
            due=f"{due_time(due, UTC):%Y-%m-%dT%H:%M:%SZ}",
            local=f"{due_time(due, app.timezone):%Y-%m-%d %H:%M:%S}",
            source=INVENTORY if str(entry.name) in inventory else CODE,
            last=_last_of(entry),
            runs=int(getattr(entry, "total_run_count", 0)),
        )
        for due, entry in held
    ]


def events_before(service: Any) -> Events:
    """Return the same as `events` before the first tick, which makes the heap again."""
    if redbeat.holds(service):
        return redbeat.events_when_leading(service)
    service.scheduler.populate_heap()
    try:
        return events(service) or []
    finally:
        service.scheduler._heap = None


def _last_of(entry: Any) -> str:
    # An application's own scheduler may have other entries.
    last = getattr(entry, "last_run_at", None)
    return f"{maybe_make_aware(last).astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if last else ""


def view_entry(app: Any, entry: Any) -> dict[str, Any]:
    """Return the name, task, queue and schedule of a scheduler's entry, for display."""
    return {
        "name": str(entry.name),
        "task": str(entry.task),
        "queue": _queue_of(app, entry, {}),
        "schedule": _text_of(entry.schedule),
    }


def _route_key(entry: Any) -> tuple[Any, ...]:
    return entry.name, entry.task, repr(entry.options)


def _queue_of(app: Any, entry: Any, known: dict[Any, Any]) -> str | None:
    key = _route_key(entry)
    if key not in known:
        try:
            known[key] = queue_of(app, entry.task, entry.options or {}, entry.args, entry.kwargs)[0]
        except Exception:  # noqa: BLE001  # the application's own routes; beat reports the error when it sends
            known[key] = None
    queue: str | None = known[key]
    return queue


def _text_of(schedule: Any) -> str:
    fields = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    if all(hasattr(schedule, f"_orig_{field}") for field in fields):
        return "crontab " + " ".join(str(getattr(schedule, f"_orig_{field}")) for field in fields)
    every = getattr(schedule, "run_every", None)
    if isinstance(every, timedelta):
        return f"every {every.total_seconds():g} s"
    return str(schedule)
