# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""The private attributes of Celery 5.7 and kombu 5.7 that the runtime reads, all in one place.

Everything else goes through this module, so that another minor gets a module of its own. What is
read was checked in the sources of celery 5.7.0 and kombu 5.7.0; each function names the place.
What differs in older minors is read through `celery_fleet.minors`.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from queue import Empty
from typing import Any

from celery import beat, bootsteps, signals
from celery._state import get_current_worker_task
from celery.app.defaults import _TO_OLD_KEY
from celery.app.utils import Settings
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.connection import Connection
from kombu.transport.redis import Channel
from kombu.utils import json as kombu_json

from celery_fleet import minors
from celery_fleet._pools57 import GREENLETS, Door, door_of, kind_of
from celery_fleet.delivery.messages import redelivered
from celery_fleet.delivery.scripts import RESTORE
from celery_fleet.loaded import CODE, INVENTORY, Loaded

logger = logging.getLogger("celery_fleet")

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
    found = {}
    for name in names:
        with suppress(KeyError):  # `in` passes over old names before 5.7
            found[name] = own[name]
    return found


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
    if told_to_stop():
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


# --- what the worker has taken and not finished (celery/worker/, celery/concurrency/asynpool.py) ---


@dataclass(frozen=True)
class Load:
    """What a worker still has to do with tasks that it took."""

    #: Tasks that the pool has, so that they run or begin to.
    running: int
    #: Messages that the broker still counts as this worker's.
    unacked: int
    #: A question for messages is under way, whose answer may bring one.
    polling: bool

    @property
    def busy(self) -> bool:
        """Whether there is anything left."""
        return bool(self.running or self.unacked or self.polling)


def sends_task_events(consumer: Any) -> bool:
    """Whether it tells of each of its tasks (celery/worker/consumer/events.py; `enable_events` may have changed it)."""
    dispatcher = consumer.event_dispatcher
    if dispatcher is None or not dispatcher.enabled:
        return False
    # Without groups it sends all of them (celery/events/dispatcher.py).
    return not dispatcher.groups or "task" in dispatcher.groups


def why_not_paused(consumer: Any) -> str | None:
    """Why such a worker can't be told to stop taking tasks without ending; None where it can."""
    if consumer.hub is None and kind_of(consumer.pool) != GREENLETS:
        return "its pool has no event loop"
    channel = getattr(consumer.task_consumer, "channel", None)
    if not isinstance(channel, Channel):
        return "its broker is not Redis"
    if not channel.ack_emulation:
        return "ack_emulation is off"
    for queue in consumer.task_consumer.queues:
        if queue.no_ack:  # what was taken is in no other place, so it can't be given back
            return f"its queue {queue.name} has no_ack"
    return None


def why_not_drained(consumer: Any) -> str | None:
    """Why such a worker stops as Celery has it; None where it hands back and drains."""
    if os.environ.get("REMAP_SIGTERM"):
        return "REMAP_SIGTERM gives SIGTERM another meaning"
    if kind_of(consumer.pool) is None:
        return "its pool is not prefork, threads, solo or gevent"
    return why_not_paused(consumer)


def door(consumer: Any) -> Door:
    """What stands before the pool of such a worker."""
    return door_of(consumer.pool, getattr(consumer.controller, "semaphore", None))


def shut(pool: Any) -> None:
    """Let nothing begin from now on, as far as the pool can be held; safe in a signal's handler."""
    door_of(pool).shut()


def drop_waiting(pool: Any) -> None:
    """Forget what the pool has not begun: it belongs to a connection that is lost."""
    door_of(pool).drop()


def listen(consumer: Any, fd: int, heard: Callable[[int], object], known: bool) -> None:
    """Call ``heard`` with ``fd`` whenever that can be read, on the loop or in a greenlet.

    A loop forgets it with the connection; ``known`` says that it was asked for before.
    """
    if consumer.hub is not None:
        consumer.hub.add_reader(fd, heard, fd)
        return
    if known:
        return

    def wait() -> None:
        while True:
            select.select([fd], [], [])  # gives way to other greenlets, being patched
            heard(fd)

    consumer.pool.spawn_n(wait)


def repeat(timer: Any, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
    """Call it every so many seconds; returns what ends that."""
    scheduled = timer.call_repeatedly(seconds, call)
    # Of greenlets' timers it is the greenlet of the first call alone, which the later ones are not
    # (kombu/asynchronous/timer.py, celery/concurrency/gevent.py).
    entry = getattr(scheduled, "entry", scheduled)

    def end() -> None:
        entry.cancel()

    return end


def stop_taking(consumer: Any, arrived: Callable[[Any], object]) -> Callable[[], None]:
    """Ask for no further message; what a question under way brings goes to ``arrived``.

    Cancelling the consumer would have kombu put such a message at the wrong end of its queue, and
    would forget which queues are to be consumed again. Returns what undoes it all, good for as long
    as the connection lasts.
    """
    tasks = consumer.task_consumer
    channel = tasks.channel
    qos = channel.qos
    on_message, can_consume = tasks.on_message, vars(qos).get("can_consume")

    def read_at_close(**options: Any) -> Any:
        # Channel.close reads the last answer. Where that fails it would leave the channel half
        # closed, and the worker would die of it (kombu 5.7.0, celery's Consumer.start).
        try:
            return type(channel)._brpop_read(channel, **options)
        except channel.connection_errors as exc:
            raise Empty from exc

    channel._brpop_start = lambda timeout=None: None  # kombu's signature
    channel._brpop_read = read_at_close
    # kombu leaves an answer unread while the prefetch is full, as running tasks can make it. Where no
    # answer is due, the server has closed the idle connection: read, that would be a lost one, and what
    # runs would be restored. Unread broadcasts would wake the loop over and over.
    qos.can_consume = lambda: bool(channel._in_poll or channel.active_fanout_queues)
    tasks.on_message = arrived

    def take_again() -> None:
        del channel._brpop_start, channel._brpop_read, qos.can_consume
        if can_consume is not None:  # worker_disable_prefetch sets its own
            qos.can_consume = can_consume
        if tasks.on_message == arrived:  # not yet set by the loop otherwise
            tasks.on_message = on_message

    return take_again


def take_out(consumer: Any) -> list[Any]:
    """Take all tasks that have not begun out of Celery's hands; their messages, oldest first.

    From then on nobody but the caller has them: Celery neither runs nor restores them. Only for the
    loop's own thread, or a greenlet: nothing here gives way to another one.
    """
    requests = door(consumer).take()
    limited: set[Any] = set()
    for bucket in filter(None, consumer.task_buckets.values()):
        limited.update(request for request, _ in bucket.contents)
        bucket.clear_pending()
    for request in minors.celery.take_scheduled(consumer, limited):
        if request not in limited:  # an ETA raises the prefetch until its time has come
            consumer.qos.decrement_eventually()
        requests.append(request)
    requests += limited

    qos = consumer.task_consumer.channel.qos
    taken = {tag: number for number, tag in enumerate(qos._delivered)}
    messages: dict[Any, Any] = {}
    for request in requests:
        worker_state.task_ready(request)
        tag = request.message.delivery_tag
        # What came by an earlier connection was put back when that was lost.
        if not request.acknowledged and tag in taken and tag not in qos._dirty:
            messages[tag] = request.message
        request.acknowledged = True
    # What a consumer of ours keeps though it can't be run here (delivery/parking.py).
    for message in getattr(consumer, "take_held", list)():
        if message.delivery_tag in taken:
            messages[message.delivery_tag] = message
    for message in messages.values():
        disown(consumer, message)
    return sorted(messages.values(), key=lambda message: taken[message.delivery_tag])


def disown(consumer: Any, message: Any) -> None:
    """Have kombu forget a message, so that it is not restored when the connection goes."""
    consumer.task_consumer.channel.qos._quick_ack(message.delivery_tag)
    message._state = "REQUEUED"


def give_back(consumer: Any, held: Sequence[tuple[Any, float | None]]) -> list[Any]:
    """Put messages back at the head of their queues, the oldest nearest to it.

    With each comes the Unix time of the first attempt whose answer was lost, None without one: it
    may have succeeded, and somebody else may have the message by now, under the same tag. Returns
    for each 1 where it was put back, 0 where it was no longer this worker's, or the error that kept
    it from being put back, of Redis or of a message that can't be read.

    Raises:
        Exception: where Redis could not be asked, so that it is not known what happened.
    """
    channel = consumer.task_consumer.channel
    # kombu prefixes the first key of a script alone.
    prefix = channel.global_keyprefix
    answers: dict[int, Any] = {}
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        script = client.register_script(RESTORE.text)
        for number, (message, tried) in reversed(list(enumerate(held))):
            try:
                key = list_of(message)
                payload = kombu_json.dumps(redelivered(message._raw))  # type: ignore[no-untyped-call]  # typed in part only
            except Exception as exc:  # noqa: BLE001  # the others are to be put back
                answers[number] = exc
                continue
            # The atomic take has a tag for each delivery, so no doubt whose it is.
            certain = tried is None or getattr(message, "list_key", None)
            script(
                keys=[channel.unacked_key, prefix + channel.unacked_index_key, prefix + key],
                args=[message.delivery_tag, payload, "" if certain else repr(tried)],
                client=pipe,
            )
        sent = [number for number in reversed(range(len(held))) if number not in answers]
        answers.update(zip(sent, pipe.execute(raise_on_error=False), strict=True))
    return [answers[number] for number in range(len(held))]


def note_queues(consumer: Any) -> None:
    """Have each message tell in ``queue`` which queue it was taken from; to be called before anything is consumed.

    kombu keeps only exchange and routing key, and several queues may be bound to these.
    """
    if not isinstance(consumer.task_consumer.channel, Channel):
        return
    channel: Any = consumer.task_consumer.channel
    consume = channel.basic_consume

    def basic_consume(
        queue: str, *args: Any, callback: Callable[[Any], object], **options: Any
    ) -> Any:
        def noted(message: Any) -> object:
            message.queue = queue
            return callback(message)

        return consume(queue, *args, callback=noted, **options)

    channel.basic_consume = basic_consume


def list_of(message: Any) -> str:
    """The list that a message was taken from: the atomic take notes it, `note_queues` the queue of any other."""
    known = getattr(message, "list_key", None)
    return str(known or list_for(message.channel, message.queue, message._raw))


def list_for(channel: Any, queue: str, raw: Mapping[str, Any]) -> str:
    """The list of a queue that a message belongs to by its priority (kombu/transport/redis.py)."""
    return str(channel._q_for_pri(queue, channel._get_message_priority(raw, reverse=False)))


def at_work(pool: Any) -> int:
    """Tasks that the pool has, so that they run or begin to."""
    jobs = getattr(getattr(pool, "_pool", None), "_cache", ())
    return max(len(jobs), len(worker_state.reserved_requests))


def load(consumer: Any) -> Load:
    """What the worker still has to do; with another transport than Redis only what runs."""
    running = at_work(consumer.pool)
    channel = getattr(consumer.task_consumer, "channel", None)
    if not isinstance(channel, Channel):
        return Load(running, 0, polling=False)
    unacked = set(channel.qos._delivered) - channel.qos._dirty
    return Load(running, len(unacked), polling=bool(channel._in_poll))


def told_to_stop() -> bool:
    """Whether Celery's own stop, warm or cold, has been asked for."""
    return any(
        told is not None and told is not False
        for told in (worker_state.should_stop, worker_state.should_terminate)
    )


def stop_worker() -> None:
    """Have the loop end by Celery's warm stop, with status 0."""
    worker_state.should_stop = 0


def on_tasks(begun: Callable[[str], object], ended: Callable[[str], object]) -> Callable[[], None]:
    """Call one with a delivery's tag once a pool runs its task, the other once it is acknowledged or rejected.

    Tasks that are acknowledged before they run are passed over by the first one. What they raise is logged.
    Returns what undoes it. All pools call Request.on_accepted in the worker's own process
    (celery/worker/request.py); create_request_cls makes a subclass for each task.
    """
    names = ("on_accepted", "acknowledge", "reject")
    before = {name: getattr(Request, name) for name in names}

    def tell(called: Callable[[str], object], request: Any) -> None:
        try:
            called(request.message.delivery_tag)
        except Exception:  # a note less must not end the worker
            logger.exception("a task can't be noted for the hand-back")

    def on_accepted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.task.acks_late:
            tell(begun, self)
        return before["on_accepted"](self, *args, **kwargs)

    def acknowledge(self: Any) -> Any:
        result = before["acknowledge"](self)
        tell(ended, self)
        return result

    def reject(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = before["reject"](self, *args, **kwargs)
        tell(ended, self)
        return result

    for name, function in zip(names, (on_accepted, acknowledge, reject), strict=True):
        setattr(Request, name, function)

    def undo() -> None:
        for name, function in before.items():
            setattr(Request, name, function)

    return undo


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


def beat_entry(app: Any, name: str, entry: Any) -> Any:
    """An entry of ``beat_schedule`` as the scheduler takes it up (Scheduler._maybe_entry)."""
    if isinstance(entry, beat.ScheduleEntry):
        entry.app = app
        return entry
    return beat.ScheduleEntry(**dict(entry, name=name, app=app))


def queue_of(
    app: Any, task: str, options: Mapping[str, Any], args: Any = (), kwargs: Any = None
) -> tuple[str | None, bool]:
    """The queue that beat's task goes to, and whether no route has a say in it.

    None where an exchange is named and no queue. As Task.apply_async and Celery.send_task decide it:
    options of the entry, over those of the task, over its route, over the default queue.
    """
    registered = app.tasks.get(task)
    own = {} if registered is None else dict(registered._get_exec_options())
    given = {**own, **options}
    queue = given.get("queue")
    if queue is None and given.get("exchange") is not None:
        return None, True
    fixed = queue is not None
    if not fixed:
        queue = app.amqp.router.route(given, task, args, kwargs, registered).get("queue")
    return str(getattr(queue, "name", queue)), fixed


def loaded(
    service: Any, own: Iterable[str] = (), known: dict[Any, Any] | None = None
) -> list[Loaded]:
    """All entries that the scheduler holds. Only for beat's own thread, as `scheduled`.

    ``own`` are the names of the inventory's entries; ``known`` keeps what was found out about routes,
    which may be the application's own functions, from one call to the next.
    """
    heap = getattr(service.scheduler, "_heap", None) or []
    inventory = frozenset(own)
    cache = {} if known is None else known
    return [
        Loaded(
            name=str(event.entry.name),
            task=str(event.entry.task),
            queue=_queue_of(service.app, event.entry, cache),
            schedule=_text_of(event.entry.schedule),
            due=f"{_moment(event, UTC):%Y-%m-%dT%H:%M:%SZ}",
            local=f"{_moment(event, service.app.timezone):%Y-%m-%d %H:%M:%S}",
            source=INVENTORY if str(event.entry.name) in inventory else CODE,
        )
        for event in heap
    ]


def view_entry(app: Any, entry: Any) -> dict[str, Any]:
    """Name, task, queue and schedule of a scheduler's entry, as a person reads them."""
    return {
        "name": str(entry.name),
        "task": str(entry.task),
        "queue": _queue_of(app, entry, {}),
        "schedule": _text_of(entry.schedule),
    }


def _moment(event: Any, zone: tzinfo) -> datetime:
    # Beat's drift makes due times end in .99; a person reads whole seconds.
    return datetime.fromtimestamp(round(event.time), zone)


def _queue_of(app: Any, entry: Any, known: dict[Any, Any]) -> str | None:
    key = (entry.name, entry.task, repr(entry.options))
    if key not in known:
        try:
            known[key] = queue_of(app, entry.task, entry.options or {}, entry.args, entry.kwargs)[0]
        except Exception:  # noqa: BLE001  # the application's own routes: beat will say it when it sends
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


# --- tasks that begin, and what they send (celery/app/amqp.py, celery/_state.py) ---


def running_task() -> Any:
    """Return the task that the caller runs for the worker, None outside of one."""
    return get_current_worker_task()


def before_each_task(may_begin: Callable[[Any], bool]) -> None:
    """Have the worker that starts ask ``may_begin`` about each request, just before it gives it to its pool.

    A request that may not begin is dropped as a revoked one is (celery/worker/worker.py).
    """

    def wrap(sender: Any, **_: Any) -> None:
        process = sender._process_task

        def process_task(request: Any) -> None:
            if may_begin(request):
                process(request)
                return
            worker_state.task_ready(request)
            with suppress(AttributeError):  # only prefork has slots to give back
                sender._quick_release()

        sender._process_task = process_task

    signals.worker_init.connect(wrap, weak=False, dispatch_uid="celery_fleet.before_each_task")


def wrap_sender(app: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the function by which an app sends every task; Celery makes it when the first one is sent."""
    amqp = app.amqp
    create = amqp._create_task_sender
    amqp._create_task_sender = lambda: wrap(create())
    vars(amqp).pop("send_task_message", None)


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


def fanout_queues(app: Any) -> list[str]:
    """Names of the worker's queues that are bound to a fanout exchange (celery/app/amqp.py, kombu/entity.py)."""

    def is_fanout(queue: Any) -> bool:
        exchanges = [queue.exchange, *(binding.exchange for binding in queue.bindings)]
        return any(exchange is not None and exchange.type == "fanout" for exchange in exchanges)

    queues = app.amqp.queues.consume_from.values()
    return sorted(str(queue.alias or queue.name) for queue in queues if is_fanout(queue))


def priority_keys(channel: Any, queue: str) -> list[str]:
    """The Redis lists that hold a queue's messages, one for each priority step."""
    return [str(channel._q_for_pri(queue, step)) for step in channel.priority_steps]


def empty(channel: Any, queue: str) -> int:
    """Delete a queue's messages of all priorities; how many there were.

    Not kombu's queue_purge: its transaction is refused by a Redis that is full, which this may be the remedy for.
    """
    deleted = 0
    for key in priority_keys(channel, queue):
        deleted += int(channel.client.llen(key))
        channel.client.delete(key)
    return deleted


def unbind(channel: Any, exchange: str, queue: str) -> int:
    """Remove a queue's bindings to an exchange; returns how many entries there were."""
    regular = channel.keyprefix_queue % exchange
    removed = 0
    for key in filter(None, (regular, minors.kombu.bindings_without_expiry(channel, exchange))):
        # A member is routing key, pattern and queue.
        members = [
            member
            for member in channel.client.smembers(key)
            if member.decode().split(channel.sep)[-1] == queue
        ]
        if members:
            removed += int(channel.client.srem(key, *members))
    if not channel.client.exists(regular):
        minors.kombu.forget_deadline(channel, exchange)
    return removed
