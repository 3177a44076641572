# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""The private attributes of Celery 5.7 and kombu 5.7 that the runtime reads, all in one place.

Everything else goes through this module, so that another minor gets a module of its own. What is
read was checked in the sources of celery 5.7.0 and kombu 5.7.0; each function names the place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import bootsteps
from celery.app.defaults import _TO_OLD_KEY
from celery.app.utils import Settings
from celery.worker import state as worker_state
from kombu.connection import Connection

from celery_fleet.loaded import Loaded

# --- settings (celery/app/utils.py, celery/utils/collections.py) ---


def spellings(name: str, prefix: str | None) -> set[str]:
    """Every name under which an application can write setting ``name``."""
    names = {name, _TO_OLD_KEY.get(name, name)}
    if prefix:
        # ConfigurationView.match_case writes the key in the case of the prefix.
        names |= {prefix + name, (prefix + name).upper(), (prefix + name).lower()}
    return names


def prefix_of(conf: Any) -> str | None:
    """The namespace that the application's settings carry, such as ``CELERY_``."""
    prefix = conf.__dict__.get("prefix")
    return str(prefix) if prefix else None


def application_settings(conf: Any, names: Iterable[str]) -> dict[str, Any]:
    """Those of the settings ``names`` that the application has set itself, with their values."""
    maps = conf.__dict__["maps"][:-1]  # the last one holds Celery's defaults
    own = Settings({}, maps, conf.__dict__["_keys"], conf.__dict__["prefix"])
    return {name: own[name] for name in names if name in own}


def changes_of(conf: Any) -> dict[str, Any]:
    """The map of ``conf`` that every write goes to and every lookup begins with."""
    changes: dict[str, Any] = conf.__dict__["changes"]
    return changes


def replace_changes(conf: Any, changes: dict[str, Any]) -> None:
    """Put another map in that place."""
    conf.__dict__["changes"] = changes
    conf.__dict__["maps"] = [changes, *conf.__dict__["defaults"]]


def censor_table(conf: Any, mask: Callable[[Any], Any]) -> None:
    """Have everything that ``conf`` tells of itself go through ``mask``.

    Settings.table answers ``celery inspect conf``, and so Flower's pages; it masks URLs under
    their exact lowercase names only, not under a namespace's ``CELERY_BROKER_URL``.
    """
    table = type(conf).table

    def masked_table(with_defaults: bool = False, censored: bool = True) -> Any:
        content = table(conf, with_defaults, censored)
        return mask(content) if censored else content

    conf.__dict__["table"] = masked_table


def run_first(signal: Any, receiver: Callable[..., Any], uid: Any) -> None:
    """Connect ``receiver`` before all others (celery/utils/dispatch/signal.py)."""
    signal.connect(receiver, weak=False, dispatch_uid=uid)
    with signal.lock:
        # A receiver's key is (dispatch_uid, id of its sender).
        mine = [item for item in signal.receivers if item[0][0] == uid]
        signal.receivers[:] = mine + [item for item in signal.receivers if item not in mine]
        signal.sender_receivers_cache.clear()


# --- the worker (celery/worker/, kombu/transport/redis.py) ---


@dataclass(frozen=True)
class WorkerView:
    """What the worker shows from outside its loop; ages are in seconds, None for "never"."""

    draining: bool
    connected: bool
    solo: bool
    running: int
    queues: tuple[str, ...]
    full: bool
    # None where the transport is not kombu's Redis: there is no poll to look at.
    poll_age: float | None
    poll_limit: float | None
    # How often the consumer has begun anew: it changes where Celery tries and fails.
    restarts: int = 0


def draining(worker: Any) -> bool:
    """Whether the worker stops: told by a signal, by remote control, or by an error of its own.

    A signal's handler sets ``should_stop``. Remote control's shutdown and an "Unrecoverable error"
    do not: WorkController.stop goes straight to its blueprint, which waits for the pool's tasks
    (celery/worker/worker.py, celery/bootsteps.py).
    """
    stop, terminate = worker_state.should_stop, worker_state.should_terminate
    if (stop is not None and stop is not False) or bool(terminate):
        return True
    blueprint = getattr(worker, "blueprint", None)
    return blueprint is not None and blueprint.state in (bootsteps.CLOSE, bootsteps.TERMINATE)


def running_tasks() -> int:
    """Tasks that the pool works on now."""
    return len(worker_state.active_requests)


def view_worker(worker: Any) -> WorkerView:
    """Read the worker's state; called from another thread than its loop's, so reads only."""
    consumer: Any = getattr(worker, "consumer", None)
    channel: Any = getattr(getattr(consumer, "task_consumer", None), "channel", None)
    connected = (
        consumer is not None
        and consumer.blueprint.state == bootsteps.RUN
        and bool(consumer.connection)
        and channel is not None
        and channel.connection is not None
        and not channel.closed
    )
    queues: tuple[str, ...] = ()
    full = False
    poll_age = poll_limit = None
    if connected:
        queues = tuple(queue.name for queue in consumer.task_consumer.queues)
        # Not the property: it makes a missing one, which is for the loop's own thread to do.
        qos = channel._qos
        full = qos is not None and not qos.can_consume()
        if hasattr(channel, "_brpop_sent_at"):
            sent = channel._brpop_sent_at
            poll_age = None if sent is None else time.monotonic() - sent
            # kombu drops a poll itself after brpop_timeout + health_check_interval.
            poll_limit = (channel.brpop_timeout or 1) + 2 * (channel.health_check_interval or 25)
    return WorkerView(
        draining=draining(worker),
        connected=connected,
        # pool_cls is a class here, resolved by WorkController.setup_instance.
        solo=getattr(worker.pool_cls, "__module__", "") == "celery.concurrency.solo",
        running=running_tasks(),
        queues=queues,
        full=full,
        poll_age=poll_age,
        poll_limit=poll_limit,
        restarts=getattr(consumer, "restart_count", 0),
    )


# --- beat (celery/beat.py) ---


def on_tick(service: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call ``before`` and ``after`` around each tick, in beat's own thread."""
    tick = service.scheduler.tick

    def timed_tick(*args: Any, **kwargs: Any) -> Any:
        before()
        try:
            return tick(*args, **kwargs)
        finally:
            after()

    service.scheduler.tick = timed_tick  # Service.start looks it up on the instance each time


def loop_interval(service: Any) -> float:
    """The longest sleep between two ticks, in seconds."""
    return float(service.scheduler.max_interval)


def on_stop(service: Any, called: Callable[[], None]) -> None:
    """Call ``called`` when beat saves its schedule to end; its signal handler begins with that."""
    sync = service.sync

    def announced_sync() -> Any:
        called()
        return sync()

    service.sync = announced_sync


def scheduled(service: Any) -> tuple[int, float, str] | None:
    """Number of entries, Unix time and name of the one due next.

    None where the scheduler keeps no heap (yet). Only for beat's own thread: the heap changes
    while it ticks. ``scheduler.schedule`` would ask a database or Redis in other schedulers.
    """
    heap = getattr(service.scheduler, "_heap", None)
    if not heap:
        return None
    event = heap[0]
    return len(heap), float(event.time), str(event.entry.name)


def loaded(service: Any) -> list[Loaded]:
    """All entries that the scheduler holds. Only for beat's own thread, as `scheduled`."""
    heap = getattr(service.scheduler, "_heap", None) or []
    return [
        Loaded(
            name=str(event.entry.name),
            task=str(event.entry.task),
            queue=_queue_of(event.entry),
            schedule=_text_of(event.entry.schedule),
            # Beat's drift makes due times end in .99; a person reads whole seconds.
            due=f"{datetime.fromtimestamp(round(event.time), UTC):%Y-%m-%dT%H:%M:%SZ}",
        )
        for event in heap
    ]


def _queue_of(entry: Any) -> str | None:
    queue = (entry.options or {}).get("queue")
    return None if queue is None else str(getattr(queue, "name", queue))


def _text_of(schedule: Any) -> str:
    fields = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    if all(hasattr(schedule, f"_orig_{field}") for field in fields):
        return "crontab " + " ".join(str(getattr(schedule, f"_orig_{field}")) for field in fields)
    every = getattr(schedule, "run_every", None)
    if isinstance(every, timedelta):
        return f"every {every.total_seconds():g} s"
    return str(schedule)


# --- the broker (kombu/connection.py) ---


@dataclass(frozen=True)
class Endpoint:
    """One broker address as kombu understands the settings."""

    host: str
    port: int
    username: str | None
    password: str | None
    database: int
    # Redis' TLS options, None for plain TCP.
    tls: Mapping[str, Any] | None

    @property
    def address(self) -> str:
        """Host and port, as a person knows the broker."""
        return f"{self.host}:{self.port}"


def endpoints(app: Any) -> list[Endpoint]:
    """The Redis addresses that the process consumes from; none for other transports.

    Opens nothing: neither a socket nor kombu's transport, which would hold an epoll descriptor.
    """
    return _endpoints(app.connection_for_read())


def result_endpoints(app: Any) -> list[Endpoint]:
    """The Redis addresses of the result backend; none for other backends."""
    url = app.conf.result_backend
    if not url or not str(url).startswith(("redis://", "rediss://")):
        return []
    connection: Any = Connection  # typed in part only
    return _endpoints(connection(url, ssl=app.conf.redis_backend_use_ssl or False))


def _endpoints(first: Any) -> list[Endpoint]:
    found = []
    for connection in [first, *(first.clone(hostname=url) for url in (first.alt or [])[1:])]:
        if connection.transport_cls not in ("redis", "rediss") or "://" in str(connection.hostname):
            continue
        tls = connection.ssl
        found.append(
            Endpoint(
                host=connection.hostname or "127.0.0.1",
                port=connection.port or 6379,
                username=connection.userid,
                password=connection.password,
                database=_database(connection.virtual_host),
                # kombu itself turns a rediss:// URL without options into some.
                tls=dict(tls) if isinstance(tls, Mapping) else None,
            )
        )
    return found


def _database(virtual_host: Any) -> int:
    text = str(virtual_host or "").strip("/")
    return int(text) if text.isdigit() else 0


def priority_keys(channel: Any, queue: str) -> list[str]:
    """The Redis lists that hold a queue's messages, one for each priority step."""
    return [str(channel._q_for_pri(queue, step)) for step in channel.priority_steps]
