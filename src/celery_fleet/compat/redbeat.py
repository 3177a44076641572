# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""The schedule of celery-redbeat, which is on the broker (redbeat/schedulers.py, read at 2.4.2).

Its scheduler keeps nothing in memory. Each tick reads the entries that are due, so any process with the right to do
so may change one at any time. By itself it writes a run back before it sends the message: a beat that dies in between
loses the run, and one that has been replaced meanwhile takes it from the next leader. So the fleet's script does both
at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from celery.beat import ScheduleEntry
from redis.exceptions import NoPermissionError

from celery_fleet.common.errors import error_text
from celery_fleet.compat import broker
from celery_fleet.compat.schedule import differs, log_dropped

logger = logging.getLogger("celery_fleet.beat")

PACKAGE = "redbeat"

#: The keys of its schedule.
KEYS = "redbeat:"

#: Seconds for connecting to the broker, and for each answer.
TIMEOUT = 5.0

#: What is raised while the broker is away.
AWAY = (redis.exceptions.RedisError, OSError)

#: The same, without what it answers. A primary that has become a replica only reads.
_LOST = (
    OSError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
)

#: The attribute of an application in which it keeps its client.
_CLIENT = "redbeat_redis"


def settings(broker_url: str) -> Mapping[str, Any]:
    """Return its settings. It has no lock, because the fleet's election decides which beat sends.

    Args:
        broker_url: The broker. It only reads the beginning, because it gets a client.
    """
    return {
        "redbeat_redis_url": broker_url,
        "redbeat_redis_options": {},
        "redbeat_key_prefix": KEYS,
        "redbeat_lock_key": "",
    }


class _Client:
    """Makes the client when it is first used, because an application is not configured when it is loaded."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._made: redis.Redis | None = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            endpoint = broker.endpoints(self._app)[0]
            self._made = broker.client(endpoint, TIMEOUT, decode_responses=True)
        return getattr(self._made, name)


def connect(app: Any) -> None:
    """Give an application the fleet's client of the broker, which follows a primary, for its schedule."""
    setattr(app, _CLIENT, _Client(app))
    if not missing():
        from redbeat.schedulers import RedBeatSchedulerEntry

        RedBeatSchedulerEntry.due_at = property(_due_at)


def _due_at(entry: Any) -> datetime | None:
    """Return when an entry is due; None if never again.

    Its own property adds the time that is left to the last run, in place of the present. So an entry that is saved
    later, as each declared one is when beat starts, seems due too early. Beat looks only at the first entry to know how
    long it may sleep, and would be late for the others by up to its longest sleep.
    """
    now: datetime = entry._default_now()
    if entry.last_run_at is None:
        return now
    left: timedelta | None = entry.schedule.remaining_estimate(entry.last_run_at)
    # Add in UTC: on a day with a clock change the zone's own hours don't add up.
    return None if left is None else max(now.astimezone(UTC), now.astimezone(UTC) + left)


def missing() -> str:
    """Return why this process can't have such a schedule, with the remedy; empty if it can."""
    try:
        __import__(PACKAGE)
    except ImportError:
        return f"there is no {PACKAGE} in its virtualenv: add celery-redbeat to the requirements"
    return ""


def is_used(app: Any) -> bool:
    """Return whether the fleet has the schedule of an application on the broker."""
    # celery-redbeat gives a client to any application that asks it for entries.
    return isinstance(getattr(app, _CLIENT, None), _Client)


def holds(service: Any) -> bool:
    """Return whether a beat's schedule is one of celery-redbeat."""
    return type(service.scheduler).__module__.partition(".")[0] == PACKAGE


def events(app: Any) -> list[tuple[float, Any]]:
    """Return all entries with the Unix times at which they are due; those that are switched off are left out.

    Raises:
        redis.exceptions.RedisError: The broker does not answer.
    """
    from redbeat.schedulers import RedBeatSchedulerEntry, ensure_conf

    client = getattr(app, _CLIENT)
    found = client.zrange(ensure_conf(app).schedule_key, 0, -1, withscores=True)
    with client.pipeline(transaction=False) as pipe:
        for key, _ in found:
            pipe.hmget(key, "definition", "meta")
        texts = pipe.execute(raise_on_error=False)
    entries = []
    for (_, due), text in zip(found, texts, strict=True):
        if isinstance(text, AWAY) and not _is_broken(text):
            raise text
        # An entry that is never due again has a time below 0.
        if due < 0 or isinstance(text, Exception):
            continue
        definition, meta = text
        try:
            told = RedBeatSchedulerEntry.decode_meta(meta)
            fields = RedBeatSchedulerEntry.decode_definition(definition)
            made = RedBeatSchedulerEntry(app=app, **{**fields, **told})
        except Exception:  # noqa: BLE001, S112  # removed just now, or broken; `skip_broken` tells of it when it is due
            continue
        # Without this it would have run now.
        made.last_run_at = told["last_run_at"]
        if made.enabled:
            entries.append((due, made))
    return entries


def names(app: Any) -> list[str]:
    """Return the names of all entries, also of those that are switched off.

    Raises:
        redis.exceptions.RedisError: The broker does not answer.
    """
    from redbeat.schedulers import ensure_conf

    keys = getattr(app, _CLIENT).zrange(ensure_conf(app).schedule_key, 0, -1)
    return [key.removeprefix(KEYS) for key in keys]


def _is_broken(error: Exception) -> bool:
    """Return whether an error is one of an entry, and not one of the broker."""
    if isinstance(error, AWAY):
        return isinstance(error, NoPermissionError) or str(error).startswith("WRONGTYPE")
    return True


def skip_broken() -> None:
    """Let beat drop entries that can't be read, so that they don't stop all others; repeatable."""
    from redbeat.schedulers import RedBeatSchedulerEntry

    stock = RedBeatSchedulerEntry.from_key

    def from_key(key: str, app: Any = None) -> Any:
        try:
            return stock(key, app=app)
        except KeyError:
            raise
        except Exception as error:
            if not _is_broken(error):
                raise
            log_dropped(key, error)
            # The scheduler takes this for an entry that is gone.
            raise KeyError(key) from error

    RedBeatSchedulerEntry.from_key = staticmethod(from_key)


def write_when_leading() -> None:
    """Let a scheduler write the declared entries only when `write_declared` is called; repeatable.

    What a beat writes that stands by, the one that sends reads at once. Its host may have been down in a deploy.
    """
    from redbeat.schedulers import RedBeatScheduler

    if not hasattr(RedBeatScheduler, "write_declared"):
        RedBeatScheduler.write_declared = RedBeatScheduler.setup_schedule
        RedBeatScheduler.setup_schedule = lambda scheduler: None


def events_when_leading(service: Any) -> list[tuple[float, Any]]:
    """Return `events` with the declared entries that are not on the broker yet, which `write_declared` will add.

    Raises:
        redis.exceptions.RedisError: The broker does not answer.
    """
    app, scheduler = service.app, service.scheduler
    found = events(app)
    names = {str(entry.name) for _, entry in found}
    for name, fields in (app.conf.beat_schedule or {}).items():
        if name not in names:
            declared = scheduler._maybe_entry(name, fields)
            found.append((declared.score, declared))
    return found


def write_declared(service: Any) -> None:
    """Write the declared entries, and delete those that are no longer declared."""
    service.scheduler.write_declared()


def count_from_new_times() -> None:
    """Let a declared entry with a new time count from beat's start, as a new one does; repeatable."""
    from redbeat.schedulers import RedBeatScheduler

    stock = RedBeatScheduler.update_from_dict

    def update_from_dict(scheduler: Any, declared: Mapping[str, Any]) -> None:
        app = scheduler.app
        for name, fields in declared.items():
            known = entry(app, name)
            if known and differs(known.schedule, scheduler._maybe_entry(name, fields).schedule):
                ran_at(known, app.now())
        stock(scheduler, declared)

    RedBeatScheduler.update_from_dict = update_from_dict


def entry(app: Any, name: str) -> Any:
    """Return an entry; None if there is none of this name.

    Raises:
        redis.exceptions.RedisError: The broker does not answer.
    """
    from redbeat.schedulers import RedBeatSchedulerEntry

    try:
        return RedBeatSchedulerEntry.from_key(f"{KEYS}{name}", app=app)
    except KeyError:
        return None


def ran_at(entry: Any, moment: datetime) -> None:
    """Set and save when an entry ran last.

    Raises:
        redis.exceptions.RedisError: The broker does not answer.
    """
    entry.last_run_at = moment
    run = run_to_save(entry)
    client = getattr(entry.app, _CLIENT)
    client.hset(run.entry, "meta", run.meta)
    client.zadd(run.schedule, {run.entry: run.due})


def run_to_save(entry: Any) -> RunToSave:
    """Return what to write about the last run of an entry."""
    from redbeat.decoder import RedBeatJSONEncoder
    from redbeat.schedulers import ensure_conf

    # Of a time that the clock shows twice, redbeat does not store which one it is.
    last = entry.last_run_at.astimezone(UTC)
    meta = {"last_run_at": last, "total_run_count": entry.total_run_count}
    return RunToSave(
        entry=entry.key,
        schedule=ensure_conf(entry.app).schedule_key,
        meta=json.dumps(meta, cls=RedBeatJSONEncoder),
        due=entry.score,
    )


@dataclass(frozen=True)
class RunToSave:
    """What is written about an entry's run.

    Attributes:
        entry: The entry's key.
        schedule: The key of the schedule.
        meta: What the entry's field `meta` gets.
        due: When the entry is due next, in Unix time.
    """

    entry: str
    schedule: str
    meta: str
    due: float


def hold_runs(service: Any, save: Callable[[RunToSave], bool]) -> Callable[[str], RunToSave]:
    """Let the scheduler take entries without writing that; return a function that tells what to write, by name.

    A run that was not sent is saved as other schedulers do it, unless the broker is away: without that, beat would try
    again with every tick.

    Args:
        service: Beat's service.
        save: Writes a run whose message was not sent.
    """
    scheduler = service.scheduler
    apply_async = scheduler.apply_async
    taken: dict[str, Any] = {}
    sent: set[str] = set()

    def reserve(entry: Any) -> Any:
        # Celery's own method writes nothing.
        taken[str(entry.name)] = made = ScheduleEntry._next_instance(entry)
        return made

    def run_of(name: str) -> RunToSave:
        sent.add(name)
        return run_to_save(taken[name])

    def saved_apply(entry: Any, *args: Any, **kwargs: Any) -> Any:
        name = str(entry.name)
        try:
            result = apply_async(entry, *args, **kwargs)
        except Exception as error:
            if not _is_lost_connection(error):
                save(run_to_save(taken[name]))
            raise
        else:
            # A task's own apply_async may send nothing.
            if name not in sent:
                save(run_to_save(taken[name]))
            return result
        finally:
            # Applications make entries with ever new names.
            taken.pop(name, None)
            sent.discard(name)

    scheduler.reserve, scheduler.apply_async = reserve, saved_apply
    return run_of


def _is_lost_connection(error: BaseException | None) -> bool:
    """Return whether an error comes from a connection."""
    while error is not None:
        if isinstance(error, _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False


def tick_at_once(service: Any, is_due: Callable[[], bool]) -> None:
    """Let beat tick again without a pause while a function says that something is due."""
    tick = service.scheduler.tick

    def again(*args: Any, **kwargs: Any) -> Any:
        pause = tick(*args, **kwargs)
        return 0.0 if is_due() else pause

    service.scheduler.tick = again


def guard(service: Any, tell: Callable[[str | None], None]) -> None:
    """Keep beat running while the broker, which has the schedule, is away.

    Args:
        service: Beat's service.
        tell: Called at each tick with a description of the trouble; None if there is none.
    """
    tick = service.scheduler.tick

    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            pause = tick(*args, **kwargs)
        except AWAY as error:
            logger.error("waiting for the broker: %s", error_text(error))
            tell("the broker")
            return 1.0
        tell(None)
        return pause

    service.scheduler.tick = guarded
