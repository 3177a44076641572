"""The drainer with real parts of Celery and kombu: consumer, strategies, requests, semaphore, QoS, timer.

Redis and the pool's children are fakes.
"""

from __future__ import annotations

import atexit
import base64
import inspect
import itertools
import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any, Self

import pytest
from billiard.pool import ApplyResult
from celery import Celery, signals
from celery.apps import worker as program
from celery.exceptions import WorkerShutdown
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from celery.worker.control import Panel
from kombu import Queue
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.asynchronous.timer import Timer
from kombu.common import QoS
from kombu.transport.redis import Channel, MultiChannelPoller
from kombu.utils.scheduling import cycle_by_name
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from celery_fleet.compat import intake
from celery_fleet.compat import worker as compat_worker
from celery_fleet.delivery.scripts import HEAD, PUT_BACK
from celery_fleet.worker import drain
from celery_fleet.worker import drainer as drainer_module
from celery_fleet.worker.drain import SigtermHandler
from celery_fleet.worker.drain_record import DrainRecord
from celery_fleet.worker.drainer import Drainer, Mode

SLOTS = 2


def nothing() -> None:
    """A task that is not run here."""


class Redis:
    """A fake with lists, `unacked` and its index, and the script that puts messages back."""

    def __init__(self) -> None:
        self.unacked: dict[str, str] = {}
        self.index: dict[str, float] = {}
        self.lists: dict[str, list[str]] = {}
        self.down = False
        self.answer_lost = False
        self.error: Exception | None = None
        self.calls: list[Callable[[], Any]] = []

    def queue(self, key: str = "q") -> list[str]:
        """Return the ids of the tasks in a list, the next one first."""
        return [json.loads(item)["headers"]["id"] for item in reversed(self.lists.get(key, []))]

    def _run(self, keys: list[str], args: list[str]) -> int:
        tag, payload, end, tried = args
        assert end == HEAD
        assert keys[:2] == ["unacked", "unacked_index"]
        if tried and self.index.get(tag, float("inf")) > float(tried):
            return 0
        self.index.pop(tag, None)
        if self.unacked.pop(tag, None) is None:
            return 0
        self.lists.setdefault(keys[2], []).append(payload)
        return 1

    # The same object is the client and its pipeline.
    def script_load(self, text: str) -> None:
        assert text == PUT_BACK.text
        self.calls.append(lambda: PUT_BACK.sha)

    def evalsha(self, sha: str, number: int, *values: str) -> None:
        assert sha == PUT_BACK.sha
        keys, args = list(values[:number]), list(values[number:])
        self.calls.append(lambda: self._run(keys, args))

    def __enter__(self) -> Self:
        self.calls = []
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def pipeline(self, transaction: bool = True) -> Redis:
        return self

    def zadd(self, _: str, mapping: dict[str, float]) -> Redis:
        self.calls.append(lambda: self.index.update(mapping))
        return self

    def hset(self, _: str, tag: str, value: str) -> Redis:
        self.calls.append(lambda: self.unacked.__setitem__(tag, value))
        return self

    def zrem(self, _: str, tag: str) -> Redis:
        self.calls.append(lambda: self.index.pop(tag, None))
        return self

    def hdel(self, _: str, tag: str) -> Redis:
        self.calls.append(lambda: self.unacked.pop(tag, None))
        return self

    def hgetall(self, _: str) -> dict[bytes, bytes]:
        return {}

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        if self.down:
            raise RedisConnectionError("refused")
        calls, self.calls = self.calls, []
        if self.error is not None:
            return [self.error for _ in calls]
        answers = [call() for call in calls]
        if self.answer_lost:
            raise RedisConnectionError("timed out")
        return answers


class FakeChannel(Channel):  # type: ignore[misc]  # kombu is typed in part only
    """kombu's channel without its connection."""

    do_restore = False  # for the end of the interpreter

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._active_queues = ["q"]
        self._queue_cycle = cycle_by_name("round_robin")()
        self._queue_cycle.update(self._active_queues)
        self.active_fanout_queues: set[str] = set()
        self._qos = None
        self.connection_errors = (RedisConnectionError,)
        self.closed = False
        self.asked = 0

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Redis]:
        self.redis.calls = []
        yield self.redis

    def _brpop_start(self, timeout: Any = None) -> None:
        self.asked += 1

    def _brpop_read(self, **_: Any) -> None:
        raise RedisConnectionError("closed")


class Children:
    """The pool: real jobs, and children that the test controls."""

    num_processes = SLOTS
    is_green = False

    def __init__(self, semaphore: LaxBoundedSemaphore) -> None:
        self._pool = SimpleNamespace(_cache={}, outbound_buffer=deque(), _putlock=semaphore)

    def apply_async(
        self, _: Any, args: Any, callback: Any, accept_callback: Any, **options: Any
    ) -> ApplyResult:
        job = ApplyResult(self._pool._cache, callback, accept_callback=accept_callback)
        self._pool.outbound_buffer.append(job)
        return job

    def flush(self) -> None:
        """Do what AsynPool does when a connection is lost."""
        for job in list(self._pool._cache.values()):
            if not job._accepted:
                job.discard()
        self._pool.outbound_buffer.clear()

    def write(self, number: int = SLOTS) -> list[ApplyResult]:
        """Hand jobs to children that have not confirmed them yet."""
        jobs = [self._pool.outbound_buffer.popleft() for _ in range(number)]
        for job in jobs:
            job._write_to = object()
        return jobs

    def begin(self, number: int = SLOTS) -> list[ApplyResult]:
        """Let children begin jobs; return these."""
        jobs = self.write(number)
        for job in jobs:
            job._ack(None, time.monotonic(), os.getpid(), None)
        return jobs


class Hub:
    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}

    def call_soon(self, call: Callable[[], object]) -> None:
        call()

    def add_reader(self, fd: int, call: Callable[[int], object], *args: Any) -> None:
        self.readers[fd] = partial(call, *args)


class Worker:
    """A worker with Celery's consumer and a drainer."""

    def __init__(self, path: Path, late: bool = False) -> None:
        self.now = 100.0
        self.app = Celery("shop", set_as_current=False, broker="memory://")
        self.app.conf.update(task_acks_late=late, task_ignore_result=True)
        for name, limit in (("plain", None), ("limited", "1/h")):
            self.app.task(nothing, name=name, rate_limit=limit, shared=False)
        self.app.finalize()
        self.semaphore = LaxBoundedSemaphore(SLOTS)
        self.pool = Children(self.semaphore)
        self.hub = Hub()
        self.timer = Timer()
        controller = SimpleNamespace(
            semaphore=self.semaphore, state=worker_state, use_eventloop=True, consumer=None
        )
        self.consumer = Consumer(
            self._on_task,
            hostname="w@h",
            pool=self.pool,
            app=self.app,
            timer=self.timer,
            controller=controller,
            hub=self.hub,
            initial_prefetch_count=8,
        )
        self.redis = Redis()
        self.record = path / "drain.json"
        self.drainer = Drainer(DrainRecord(str(path), "i1"), lambda: self.now)
        self._number = itertools.count()
        self.connect()

    def _on_task(self, request: Any) -> None:
        self.semaphore.acquire(lambda req: req.execute_using_pool(self.pool), request)

    def connect(self, paused: bool = False) -> None:
        """Connect, and do everything that Celery does until it consumes."""
        self.channel = FakeChannel(self.redis)
        self.consumer.task_consumer = SimpleNamespace(
            channel=self.channel, queues=[Queue("q")], on_message=None
        )
        self.consumer.qos = QoS(lambda prefetch_count: None, 8)
        self.consumer.update_strategies()
        self.drainer.connected(self.consumer)
        self.consumer.task_consumer.on_message = self.consumer.create_task_handler()

    def lose_connection(self) -> None:
        self.consumer.on_close()
        self.drainer.disconnected()

    def take(self, *tasks: str, **options: Any) -> list[str]:
        """Deliver messages from the broker."""
        ids = []
        for name in tasks:
            number = next(self._number)
            ids.append(f"{name}{number}")
            message = self.message(ids[-1], name, **options)
            self.consumer.task_consumer.on_message(message)
        return ids

    def message(self, id_: str, name: str = "plain", eta: float = 0, priority: int = 0) -> Any:
        when = (datetime.now(UTC) + timedelta(seconds=eta)).isoformat() if eta else None
        payload = {
            "body": base64.b64encode(b"[[], {}, {}]").decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": name, "id": id_, "eta": when, "expires": None, "lang": "py"},
            "properties": {
                "delivery_tag": f"tag-{id_}",
                "delivery_info": {"exchange": "", "routing_key": "q"},
                "body_encoding": "base64",
                "priority": priority,
                "correlation_id": id_,
            },
        }
        message: Any = self.channel.Message(payload, channel=self.channel)
        message.accept = None
        message.queue = "q"
        self.channel.qos.append(message, message.delivery_tag)
        return message

    def end(self, job: ApplyResult) -> None:
        """Let a child end its task."""
        job._set(None, (True, (0, None, 0.1)))
        self.semaphore.release()

    def tick(self, seconds: float = 1.5) -> None:
        self.now += seconds
        self.drainer._tick()

    def written(self) -> dict[str, Any]:
        return dict(json.loads(self.record.read_text()))

    @property
    def unacked(self) -> list[str]:
        return sorted(tag.removeprefix("tag-") for tag in self.redis.unacked)


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    worker_state.reset_state()
    monkeypatch.setattr(worker_state, "should_stop", None)
    monkeypatch.setattr(worker_state, "should_terminate", None)
    monkeypatch.delenv("REMAP_SIGTERM", raising=False)
    yield
    # A thread that waits for a broker would stop another test's worker.
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()
    worker_state.reset_state()


@pytest.fixture(params=[False, True], ids=["early", "late"])
def worker(tmp_path: Path, request: pytest.FixtureRequest) -> Worker:
    return Worker(tmp_path, late=request.param)


@pytest.fixture
def late(tmp_path: Path) -> Worker:
    return Worker(tmp_path, late=True)


def test_waiting_tasks_go_back_at_once_and_running_ones_continue(worker: Worker) -> None:
    running = worker.take("plain", "plain")
    jobs = worker.pool.begin()
    waiting = worker.take("plain", "plain")
    later = worker.take("plain", eta=60)
    limited = worker.take("limited", "limited", "limited")
    limited_later = worker.take("limited", eta=60)
    etas = [worker.consumer.apply_eta_task, worker.consumer._limit_post_eta]
    timers = [timer.entry for timer in worker.timer.queue if timer.entry.fun in etas]

    worker.drainer.drain()

    # The first rate-limited task has its token, and waits for a slot.
    assert worker.redis.queue() == [*waiting, *later, *limited, *limited_later]
    assert worker.unacked == (sorted(running) if worker.app.conf.task_acks_late else [])
    assert worker.drainer.status.handed_back == 7
    assert worker.drainer.status.running == len(jobs)
    assert not worker_state.should_stop
    assert [timer.canceled for timer in timers] == [True, True]
    assert not any(timer.args for timer in timers), "the timer keeps their messages"
    assert not worker.semaphore._waiting
    assert not worker.consumer.task_buckets["limited"].contents


def change_limit(worker: Worker, limit: str | None) -> None:
    """Do what remote control's `rate_limit` does."""
    worker.app.tasks["limited"].rate_limit = limit
    worker.consumer.reset_rate_limits()


def begun(worker: Worker, wanted: int = 0) -> list[str]:
    """Run the timer for a moment, and until a number of tasks has begun.

    Returns:
        The ids of the tasks that have begun or wait for a slot.
    """
    end = time.monotonic() + 0.2
    while True:
        _, entry = next(iter(worker.timer))
        (time.sleep(0.001) if entry is None else entry())
        jobs = [job._accept_callback.__self__ for job in worker.pool._pool.outbound_buffer]
        waiting = [args[0] for _, args, _ in worker.semaphore._waiting]
        found = [request.id for request in jobs + waiting]
        now = time.monotonic()
        if now > end and (len(found) >= wanted or now > end + 20):
            return found


@pytest.mark.parametrize("limit", ["2/h", "5/m"])
@pytest.mark.parametrize("due", [False, True])
def test_tasks_go_back_after_their_rate_limit_was_changed(
    late: Worker, limit: str, due: bool
) -> None:
    first, *waiting = late.take("limited", "limited", "limited")
    waiting += late.take("limited", eta=0.1 if due else 60)
    change_limit(late, limit)
    assert begun(late, 1) == [first], "the token was spent already"
    late.pool.begin(1)

    late.drainer.drain()

    assert late.redis.queue() == waiting
    assert late.unacked == [first]
    assert begun(late) == []


def test_a_connection_that_is_lost_after_a_rate_limit_was_changed_leaves_no_task(
    late: Worker,
) -> None:
    change_limit(late, "20/s")
    late.take("limited", "limited", "limited")
    late.pool.begin(1)
    change_limit(late, "1/h")
    late.lose_connection()
    assert begun(late) == []


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["1000/s", None])
def test_tasks_that_wait_for_a_rate_limit_begin_once_when_it_is_lifted(
    late: Worker, limit: str | None
) -> None:
    sent = late.take("limited", "limited", "limited")
    sent += late.take("limited", eta=0.05)
    change_limit(late, "2/h")
    change_limit(late, limit)
    assert begun(late, len(sent)) == sent
    assert begun(late) == sent
    sent += late.take("limited")
    assert begun(late, len(sent)) == sent
    change_limit(late, "1/h")
    late.take("limited", "limited")
    assert len(begun(late, len(sent) + 1)) == len(sent) + 1


def test_a_job_that_no_child_has_read_goes_back_and_frees_its_slot(worker: Worker) -> None:
    first, second = worker.take("plain", "plain")
    worker.pool.write(1)

    worker.drainer.drain()

    assert worker.redis.queue() == [second]
    assert worker.unacked == [first]
    assert worker.drainer.status.running == 1
    assert worker.semaphore.value == 1


def test_a_job_whose_child_died_while_reading_it_stays(worker: Worker) -> None:
    (id_,) = worker.take("plain")
    worker.pool._pool.outbound_buffer.extend(worker.pool.write(1))

    worker.drainer.drain()

    assert worker.redis.queue() == []
    assert worker.unacked == [id_]
    assert worker.drainer.status.running == 1


def test_messages_that_went_back_are_not_acknowledged(worker: Worker) -> None:
    worker.take("plain", "plain", "plain")
    worker.pool.begin()
    (request,) = (args[0] for _, args, _ in worker.semaphore._waiting)
    worker.drainer.drain()
    worker.redis.unacked["tag-plain2"] = "another worker's"

    assert request.acknowledged
    request.acknowledge()
    request.reject(requeue=True)

    assert worker.redis.unacked["tag-plain2"] == "another worker's"


def test_messages_go_back_in_order_with_their_priority_and_a_mark(worker: Worker) -> None:
    worker.take("plain", "plain")
    worker.pool.begin()
    low = worker.take("plain", "plain", priority=9)
    high = worker.take("plain", "plain")

    worker.drainer.drain()

    assert worker.redis.queue("q\x06\x169") == low
    assert worker.redis.queue() == high
    (raw, *_) = worker.redis.lists["q"]
    content = json.loads(raw)
    assert content["headers"]["redelivered"] is True
    assert content["properties"]["delivery_info"]["redelivered"] is True
    assert content["properties"]["delivery_tag"].startswith("tag-")


def test_a_drain_ends_with_its_last_task_and_its_acknowledgement(worker: Worker) -> None:
    worker.take("plain", "plain", "plain")
    jobs = worker.pool.begin()
    worker.drainer.drain()
    assert worker.written()["running"] == 2
    assert worker.written()["handed_back"] == 1

    worker.end(jobs[0])
    worker.tick()
    assert worker_state.should_stop is None
    assert (worker.written()["running"], worker.written()["ended"]) == (1, False)

    worker.end(jobs[1])
    worker.tick(0.05)

    assert worker_state.should_stop == 0
    assert worker.unacked == []
    assert worker.written() == {
        "invocation": "i1",
        "pid": os.getpid(),
        "handed_back": 1,
        "running": 0,
        "ended": True,
        "seconds": 1.55,
    }


def test_a_message_of_an_earlier_poll_goes_back_even_if_the_prefetch_is_full(
    worker: Worker,
) -> None:
    worker.take("plain", "plain")
    worker.pool.begin()
    worker.channel.qos.prefetch_count = 1
    worker.channel._in_poll = object()
    worker.drainer.drain()

    assert worker.channel.qos.can_consume()
    worker.channel._brpop_start()
    assert worker.channel.asked == 0
    worker.consumer.task_consumer.on_message(worker.message("late one"))

    assert worker.redis.queue() == ["late one"]
    assert worker.drainer.look().polling
    assert "tag-late one" in worker.channel.qos._dirty


@pytest.mark.parametrize(
    "stop", [lambda drainer: drainer.drain(), lambda drainer: drainer.pause(30)]
)
def test_an_idle_connection_that_the_server_closes_does_not_count_as_lost(
    late: Worker, stop: Callable[[Drainer], object]
) -> None:
    closed: list[bool] = []
    connection = SimpleNamespace(disconnect=lambda: closed.append(True))
    late.channel.__dict__["client"] = SimpleNamespace(connection=connection)
    late.channel.handlers = {"BRPOP": late.channel._brpop_read}
    poller = MultiChannelPoller()
    poller._fd_to_chan[7] = (late.channel, "BRPOP")
    stop(late.drainer)

    poller.on_readable(7)  # a RedisConnectionError would have running tasks restored
    assert closed == [True]

    late.channel._in_poll = connection
    with pytest.raises(RedisConnectionError):  # the expected reply can't come any more
        poller.on_readable(7)


def test_broadcasts_are_read_so_that_they_do_not_wake_the_loop_for_ever(late: Worker) -> None:
    late.channel.active_fanout_queues.add("all")
    late.drainer.drain()
    assert late.channel.qos.can_consume()


def test_a_drain_waits_for_the_reply_to_the_last_poll(worker: Worker) -> None:
    worker.channel._in_poll = object()
    worker.drainer.drain()
    worker.tick()
    assert worker_state.should_stop is None

    worker.channel._in_poll = None
    worker.tick()
    assert worker_state.should_stop == 0


def test_without_redis_messages_are_kept_and_handed_back_later(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    ids = worker.take("plain", "plain", "plain")
    worker.pool.begin()
    worker.redis.down = True

    worker.drainer.drain()
    worker.tick()
    worker.tick()

    assert worker.drainer.status.held == 1
    assert caplog.text.count("1 task waits to be handed back: refused") == 1
    # It must not be restored a second time.
    worker.channel.qos._flush()
    assert f"tag-{ids[2]}" not in worker.channel.qos._delivered
    worker.redis.down = False
    worker.tick()
    assert worker.redis.queue() == ids[2:]
    assert (worker.drainer.status.held, worker.drainer.status.handed_back) == (0, 1)


def test_redis_is_not_asked_again_at_once(worker: Worker) -> None:
    worker.take("plain", "plain", "plain")
    worker.pool.begin()
    worker.redis.down = True
    worker.drainer.drain()
    worker.redis.down = False

    worker.tick(0.1)
    assert worker.drainer.status.held == 1
    worker.tick(1.0)
    assert worker.drainer.status.held == 0


def test_after_a_lost_reply_a_message_that_another_worker_has_stays_there(
    worker: Worker,
) -> None:
    ids = worker.take("plain", "plain", "plain", "plain")
    worker.pool.begin()
    worker.redis.answer_lost = True
    worker.drainer.drain()
    # Another worker fetches one of them, with the same tag.
    tag = f"tag-{ids[2]}"
    worker.redis.lists["q"].pop()
    worker.redis.unacked[tag] = "theirs"
    worker.redis.index[tag] = time.time() + 0.1

    worker.redis.answer_lost = False
    worker.tick()

    assert worker.redis.queue() == [ids[3]]
    assert worker.redis.unacked[tag] == "theirs"
    assert worker.drainer.status.held == 0


def test_an_error_of_redis_for_a_message_keeps_it(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.take("plain", "plain", "plain")
    worker.pool.begin()
    worker.redis.error = ResponseError("NOPERM this user has no permissions")
    worker.drainer.drain()

    assert worker.drainer.status.held == 1
    assert "NOPERM" in caplog.text
    worker.redis.error = None
    worker.tick()
    assert worker.drainer.status.handed_back == 1


def test_a_permanent_refusal_of_redis_delays_a_drain_no_longer_than_a_lost_broker(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.take("plain", "plain", "plain")
    jobs = worker.pool.begin()
    worker.redis.error = NoPermissionError("No permissions to access a key")
    worker.drainer.drain()
    worker.tick(2 * drainer_module.WITHOUT_BROKER)
    assert worker_state.should_stop is None  # tasks run

    worker.redis.error = None
    for job in jobs:
        worker.end(job)
    worker.redis.error = NoPermissionError("No permissions to access a key")
    worker.tick(drainer_module.WITHOUT_BROKER - 1)
    assert worker_state.should_stop is None
    worker.tick(1)
    assert worker_state.should_stop == 0
    worker.drainer.disconnected()

    assert worker.unacked == ["plain2"]
    assert worker.written()["ended"]
    text = "1 tasks could not be handed back (No permissions to access a key): they stay in unacked"
    assert text in caplog.text


def test_a_drain_continues_after_a_reconnect(worker: Worker) -> None:
    ids = worker.take("plain", "plain", "plain")
    worker.pool.begin()
    worker.redis.down = True
    worker.drainer.drain()
    worker.lose_connection()
    until_then = worker.drainer._without_broker
    assert until_then is not None
    worker.redis.down = False
    worker.now += 5

    worker.connect()
    worker.channel._brpop_start()

    assert until_then.finished.is_set()
    assert worker.channel.asked == 0
    assert worker.redis.queue() == ids[2:]
    assert worker.drainer.status.mode is Mode.DRAINING
    assert worker_state.should_stop is None


def test_a_drain_whose_broker_stays_away_becomes_celerys_own_stop(
    late: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drainer_module, "WITHOUT_BROKER", 0.01)
    late.take("plain", "plain", "plain")
    late.pool.begin()
    late.redis.down = True
    late.drainer.drain()

    late.lose_connection()
    assert late.drainer._without_broker is not None
    late.drainer._without_broker.join(5)

    assert worker_state.should_stop == 0
    assert "1 tasks could not be handed back" in caplog.text


def test_failed_attempts_to_connect_do_not_prolong_a_drain(late: Worker) -> None:
    late.drainer.drain()
    late.lose_connection()
    first = late.drainer._without_broker
    assert first is not None
    late.drainer.disconnected()

    assert late.drainer._without_broker is first
    late.connect()
    assert first.finished.is_set()


def test_celerys_stop_tries_once_more_to_hand_back(worker: Worker) -> None:
    ids = worker.take("plain", "plain", "plain")
    worker.pool.begin()
    worker.redis.down = True
    worker.drainer.drain()
    worker.redis.down = False
    worker_state.should_terminate = True

    worker.tick()  # another thread runs the timers meanwhile
    assert worker.drainer.status.held == 1
    worker.drainer.disconnected()

    assert worker.redis.queue() == ids[2:]


def test_the_channel_closes_even_if_its_last_reply_can_not_be_read(worker: Worker) -> None:
    worker.drainer.drain()

    with pytest.raises(Empty):
        worker.channel._brpop_read()


def test_messages_that_can_not_be_put_back_are_left_to_celerys_stop(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> None:
        raise AttributeError("internals changed")

    monkeypatch.setattr(intake, "take_out", fail)
    worker.drainer.drain()

    assert worker_state.should_stop == 0
    assert "internals changed" in caplog.text


# --- the pause ---


@pytest.mark.slow
def test_a_pause_hands_back_and_a_resume_fetches_again(worker: Worker) -> None:
    handler = worker.consumer.task_consumer.on_message
    running = worker.take("plain", "plain")
    jobs = worker.pool.begin()
    waiting = worker.take("plain", "limited", "limited")
    later = worker.take("plain", eta=60)
    prefetch = 8

    status = worker.drainer.pause(30)

    assert worker.redis.queue() == [*waiting, *later]
    assert (status.mode, status.seconds, status.running) == (Mode.PAUSED, 30, 2)
    assert status.handed_back == 4
    assert status.unacked == (len(running) if worker.app.conf.task_acks_late else 0)
    for job in jobs:
        worker.end(job)
    worker.tick()
    assert worker_state.should_stop is None
    assert worker.drainer.pause(30).running == 0

    status = worker.drainer.resume()

    assert status.mode is Mode.CONSUMING
    assert worker.consumer.task_consumer.on_message == handler
    assert worker.consumer.qos.value == prefetch
    worker.channel._brpop_start()
    assert worker.channel.asked == 1
    assert not {"_brpop_start", "_brpop_read"} & vars(worker.channel).keys()
    assert "can_consume" not in vars(worker.channel.qos)
    again = worker.take("plain")
    assert len(worker.pool._pool.outbound_buffer) == 1
    assert again[0] in worker_state.requests
    worker.tick()
    assert worker.drainer._timer is None


def test_a_pause_ends_by_itself_unless_renewed(worker: Worker) -> None:
    worker.drainer.pause(10)
    worker.tick(8)
    worker.drainer.pause(10)
    worker.tick(8)
    assert worker.drainer.status.mode is Mode.PAUSED
    worker.tick(2.1)
    assert worker.drainer.status.mode is Mode.CONSUMING


def test_a_tick_while_tasks_are_handed_back_does_not_end_a_pause(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gevent other greenlets run meanwhile."""
    shut = worker.drainer._shut

    def slowly() -> None:
        shut()
        worker.tick()

    monkeypatch.setattr(worker.drainer, "_shut", slowly)
    worker.take("limited")
    assert worker.drainer.pause(10).mode is Mode.PAUSED


def test_a_pause_lasts_through_a_reconnect(worker: Worker) -> None:
    worker.drainer.pause(60)
    worker.lose_connection()
    assert worker.drainer._without_broker is None
    worker.now += 30
    worker.connect()

    worker.channel._brpop_start()
    assert worker.channel.asked == 0
    worker.drainer.resume()
    worker.channel._brpop_start()
    assert worker.channel.asked == 1
    assert worker.take("plain")[0] in worker_state.requests


def test_a_pause_that_expired_without_a_broker_is_over_after_a_reconnect(
    worker: Worker,
) -> None:
    worker.drainer.pause(60)
    worker.lose_connection()
    worker.now += 61
    worker.connect()

    assert worker.drainer.status.mode is Mode.CONSUMING
    worker.channel._brpop_start()
    assert worker.channel.asked == 1


def test_disable_prefetch_is_restored_after_a_pause(worker: Worker) -> None:
    def celerys() -> bool:
        return False

    worker.channel.qos.can_consume = celerys
    worker.drainer.pause(10)
    worker.channel._in_poll = object()
    assert worker.channel.qos.can_consume()
    worker.drainer.resume()
    assert worker.channel.qos.can_consume is celerys


def test_a_paused_worker_drains_and_a_draining_one_does_not_pause(worker: Worker) -> None:
    worker.drainer.pause(10)
    worker.drainer.drain()
    assert worker.drainer.pause(10).mode is Mode.DRAINING
    assert worker.drainer.resume().mode is Mode.DRAINING
    worker.tick()
    assert worker_state.should_stop == 0


# --- which workers can ---


@pytest.mark.parametrize(
    ("change", "drained", "paused"),
    [
        (lambda w: None, None, None),
        (lambda w: setattr(w.consumer, "hub", None), "no event loop", "no event loop"),
        (lambda w: setattr(w.pool, "_pool", None), "not prefork", None),
        (lambda w: setattr(w.channel, "ack_emulation", False), "ack_emulation", "ack_emulation"),
        (
            lambda w: setattr(w.consumer.task_consumer, "channel", object()),
            "not Redis",
            "not Redis",
        ),
        (
            lambda w: w.consumer.task_consumer.queues.append(Queue("lossy", no_ack=True)),
            "its queue lossy has no_ack",
            "its queue lossy has no_ack",
        ),
        (lambda w: os.environ.__setitem__("REMAP_SIGTERM", "SIGQUIT"), "REMAP_SIGTERM", None),
    ],
)
def test_which_workers_drain_and_pause(
    late: Worker,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Worker], None],
    drained: str | None,
    paused: str | None,
) -> None:
    monkeypatch.setenv("REMAP_SIGTERM", "")
    change(late)

    for expected, found in (
        (drained, compat_worker.why_not_drained(late.consumer)),
        (paused, compat_worker.why_not_paused(late.consumer)),
    ):
        assert (found is None) if expected is None else (expected in str(found))
    assert late.drainer.can_drain is (drained is None)


# --- signals and remote control ---


@pytest.fixture
def celerys_handler() -> Iterator[list[int]]:
    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: called.append(signum))
    yield called
    signal.signal(signal.SIGTERM, before)


def test_the_first_sigterm_drains_and_the_second_is_celerys(
    late: Worker, celerys_handler: list[int]
) -> None:
    told: list[Any] = []

    def receiver(**fields: Any) -> None:
        told.append((fields["sender"], fields["sig"], fields["how"], fields["exitcode"]))

    signals.worker_shutting_down.connect(receiver)
    (of_the_pool,) = late.hub.readers
    sigterm = SigtermHandler(late.drainer)
    sigterm.connect(late.consumer)
    sigterm.connect(late.consumer)
    (heard,) = (call for fd, call in late.hub.readers.items() if fd != of_the_pool)
    late.take("plain", "plain", "plain")
    late.pool.begin()

    os.kill(os.getpid(), signal.SIGTERM)
    assert late.drainer.status.mode is Mode.CONSUMING  # the handler itself does nothing
    heard()
    assert late.drainer.status.mode is Mode.DRAINING
    assert told == [("w@h", "SIGTERM", "Warm", 0)]
    heard()
    assert len(told) == 1
    assert celerys_handler == []

    os.kill(os.getpid(), signal.SIGTERM)
    assert celerys_handler == [signal.SIGTERM]


def test_without_a_connection_sigterm_is_celerys(late: Worker, celerys_handler: list[int]) -> None:
    SigtermHandler(late.drainer).connect(late.consumer)
    late.lose_connection()

    os.kill(os.getpid(), signal.SIGTERM)

    assert celerys_handler == [signal.SIGTERM]


def test_a_sigterm_just_before_a_lost_connection_is_not_forgotten(
    late: Worker, celerys_handler: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer_module, "WITHOUT_BROKER", 0.01)
    SigtermHandler(late.drainer).connect(late.consumer)
    os.kill(os.getpid(), signal.SIGTERM)
    late.lose_connection()

    assert late.drainer._without_broker is not None
    late.drainer._without_broker.join(5)
    assert worker_state.should_stop == 0
    assert celerys_handler == []


def test_a_child_with_the_handler_does_not_wake_its_parent(
    late: Worker, celerys_handler: list[int]
) -> None:
    sigterm = SigtermHandler(late.drainer)
    sigterm.connect(late.consumer)
    sigterm._pid = -1

    os.kill(os.getpid(), signal.SIGTERM)

    assert celerys_handler == [signal.SIGTERM]
    assert not sigterm._received


def test_a_process_without_celerys_handler_keeps_its_own(late: Worker) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        SigtermHandler(late.drainer).connect(late.consumer)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def kept_handlers() -> Iterator[None]:
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("kept_handlers")
def test_sighup_is_sigterm(celerys_handler: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    name = "install_worker_restart_handler"
    monkeypatch.setattr(program, name, getattr(program, name))
    at_exit: list[Any] = []  # what would start another worker in this process
    monkeypatch.setattr(atexit, "register", at_exit.append)
    of_sigterm = signal.getsignal(signal.SIGTERM)
    compat_worker.end_at_hangup()

    program.Worker.install_platform_tweaks(
        SimpleNamespace(app=SimpleNamespace(IS_macOS=False), _isatty=False), None
    )
    signal.signal(signal.SIGTERM, of_sigterm)
    os.kill(os.getpid(), signal.SIGHUP)

    assert (celerys_handler, at_exit) == ([signal.SIGTERM], [])


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))
    return Panel.data


def test_remote_control_pauses_and_resumes(late: Worker, panel: dict[str, Any]) -> None:
    drain.register(late.drainer)
    state = SimpleNamespace(consumer=late.consumer)
    late.take("plain", "plain", "plain")
    late.pool.begin()

    assert panel["fleet_pause"](state, seconds=20) == {
        "state": "paused",
        "seconds": 20.0,
        "running": 2,
        "unacked": 2,
        "handed_back": 1,
        "paused": (),
        "held": 0,
        "polling": False,
    }
    assert panel["fleet_resume"](state)["state"] == "consuming"
    assert Panel.meta["fleet_pause"].type == "control"


@pytest.mark.parametrize("seconds", [None, 0, -1, "x", 3601, float("nan")])
def test_a_pause_needs_a_length(late: Worker, panel: dict[str, Any], seconds: Any) -> None:
    drain.register(late.drainer)
    reply = panel["fleet_pause"](SimpleNamespace(consumer=late.consumer), seconds=seconds)

    assert reply == {"error": "seconds must be above 0 and at most 3600"}
    assert late.drainer.status.mode is Mode.CONSUMING


def test_a_worker_that_can_not_pause_says_so(late: Worker, panel: dict[str, Any]) -> None:
    drain.register(late.drainer)
    late.consumer.hub = None

    assert panel["fleet_pause"](SimpleNamespace(consumer=late.consumer), seconds=5) == {
        "state": "unsupported",
        "why": "its pool has no event loop",
    }


def test_remote_shutdown_drains_if_possible(late: Worker, panel: dict[str, Any]) -> None:
    drain.register(late.drainer)
    state = SimpleNamespace(consumer=late.consumer)
    panel["shutdown"](state)
    assert late.drainer.status.mode is Mode.DRAINING

    late.lose_connection()
    with pytest.raises(WorkerShutdown):
        panel["shutdown"](state)


def test_the_step_connects_the_drainer_and_logs_why_a_worker_keeps_celerys_stop(
    late: Worker,
    panel: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    celerys_handler: list[int],
) -> None:
    caplog.set_level(logging.INFO)
    drainer, _ = drain.install(late.app)
    (step_class,) = [step for step in late.app.steps["consumer"] if step.__name__ == "Drain"]
    step = step_class(late.consumer)
    late.pool._pool = None  # like the thread pool, which has none
    (of_the_pool,) = late.hub.readers
    step.start(late.consumer)
    step.stop(late.consumer)
    step.start(late.consumer)

    text = "SIGTERM is left to Celery's own warm stop: its pool is not prefork"
    assert caplog.text.count(text) == 1
    assert list(late.hub.readers) == [of_the_pool]
    assert step.info(late.consumer)["fleet"]["queues"] == ["q"]
    assert drainer.status.mode is Mode.CONSUMING


def test_a_worker_with_another_transport_answers_as_well(late: Worker) -> None:
    late.take("plain", "plain")
    late.consumer.task_consumer.channel = object()
    assert late.drainer.look().running == 2

    late.consumer.task_consumer = None
    assert intake.load(late.consumer) == intake.Load(2, 0, polling=False)


def test_celery_still_has_the_attributes_that_are_used() -> None:
    from celery.concurrency import asynpool
    from celery.worker.request import Request
    from kombu.transport.redis import MultiChannelPoller
    from kombu.transport.virtual.base import QoS as VirtualQoS

    source = inspect.getsource(asynpool)
    assert "job._write_to = proc" in source
    assert "self.outbound_buffer = deque()" in source
    assert "channel._brpop_start()" in inspect.getsource(MultiChannelPoller._register_BRPOP)
    assert "self._brpop_read()" in inspect.getsource(Channel.close)
    assert {"unacked_key", "unacked_index_key", "global_keyprefix"} <= set(dir(Channel))
    assert "_quick_ack" in inspect.getsource(VirtualQoS.__init__)
    assert Request._eta_timer_entry is None
