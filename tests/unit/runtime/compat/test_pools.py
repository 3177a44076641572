"""A pool's own queue, without a worker: tasks that have not begun come back, and no task begins twice."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from billiard.pool import ApplyResult
from celery import Celery
from celery.concurrency.gevent import TaskPool as Greenlets
from celery.concurrency.solo import TaskPool as Solo
from celery.concurrency.thread import TaskPool as Threads
from celery.exceptions import WorkerShutdown
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from celery_fleet.compat import pools


def request(app: Celery, number: int, acknowledged: bool = False) -> Any:
    made = Request.__new__(Request)
    made.id = f"t{number}"
    made.acknowledged = acknowledged
    return made


def begin(pool: Any, target: Any, about: Any) -> None:
    # Like Request.execute_using_pool, without the effects of a request's acceptance.
    about.on_accepted = lambda *_: None
    accepted = type("Accepted", (), {"__self__": about, "__call__": lambda *_: None})()
    pool.apply_async(target, callback=lambda _: None, accept_callback=accepted)


def test_threads_return_waiting_tasks_and_keep_running_ones() -> None:
    app = Celery("shop", set_as_current=False)
    pool = Threads(limit=1, app=app)
    intake = pools.intake_of(pool)
    assert pools.intake_of(pool) is intake
    began, go = threading.Event(), threading.Event()
    ran: list[int] = []

    def first() -> None:
        began.set()
        go.wait(30)
        ran.append(0)

    requests = [request(app, number) for number in range(3)]
    begin(pool, first, requests[0])
    assert began.wait(30)
    begin(pool, lambda: ran.append(1), requests[1])
    begin(pool, lambda: ran.append(2), requests[2])

    assert intake.take() == requests[1:]
    assert intake.take() == []
    go.set()
    pool.on_stop()
    assert ran == [0]


def test_tasks_that_are_acknowledged_stay_and_run() -> None:
    """`at_most_once` acknowledges a task before the pool gets it, so no other worker could run it."""
    app = Celery("shop", set_as_current=False)
    pool = Threads(limit=1, app=app)
    intake = pools.intake_of(pool)
    began, go = threading.Event(), threading.Event()
    ran: list[int] = []
    begin(pool, lambda: (began.set(), go.wait(30)), request(app, 0, True))
    assert began.wait(30)
    ended = threading.Event()
    begin(pool, lambda: (ran.append(1), ended.set()), request(app, 1, True))
    assert intake.take() == []
    pool.flush()  # Celery's, from Consumer.on_close
    go.set()
    assert ended.wait(30)
    pool.on_stop()

    solo = Solo(limit=1, app=app)
    intake = pools.intake_of(solo)
    intake.shut()
    begin(solo, lambda: ran.append(2), request(app, 2, True))
    assert (ran, intake.take()) == ([1, 2], [])


def test_a_lost_connection_drops_tasks_that_threads_have_not_begun() -> None:
    app = Celery("shop", set_as_current=False)
    pool = Threads(limit=1, app=app)
    pools.intake_of(pool)
    began, go = threading.Event(), threading.Event()
    waiting = request(app, 1)
    begin(pool, lambda: (began.set(), go.wait(30)), request(app, 0))
    assert began.wait(30)
    begin(pool, lambda: None, waiting)

    pool.flush()  # Celery's, from Consumer.on_close

    assert waiting.acknowledged
    go.set()
    pool.on_stop()


class Prefork:
    """The parts of prefork's pool that a lost connection uses; before Celery 5.6 it forgets all jobs."""

    num_processes = 2

    def __init__(self) -> None:
        slots = LaxBoundedSemaphore(2)
        self._pool = SimpleNamespace(_cache={}, outbound_buffer=deque(), _putlock=slots)
        self.flushed = 0

    def job(self, about: Any, process: Any = None, accepted: bool = False) -> Any:
        about.on_accepted = lambda *_: None
        callback = type("Accepted", (), {"__self__": about, "__call__": lambda *_: None})()
        made = ApplyResult(self._pool._cache, None, accept_callback=callback)
        made._write_to, made._accepted = process, accepted
        if process is None:
            self._pool.outbound_buffer.append(made)
        return made

    def flush(self) -> None:
        self.flushed += 1
        self._pool._cache.clear()
        self._pool.outbound_buffer.clear()


def test_a_lost_connection_drops_no_job_of_prefork_that_is_acknowledged_or_runs() -> None:
    app = Celery("shop", set_as_current=False)
    pool = Prefork()
    pools.intake_of(pool)
    alive, dead = (SimpleNamespace(_is_alive=lambda alive=alive: alive) for alive in (True, False))
    runs = pool.job(request(app, 0), alive, accepted=True)
    written = pool.job(request(app, 1, True), alive)
    died = pool.job(request(app, 2, True), dead)
    ended = pool.job(request(app, 3, True), alive, accepted=True)
    ended._event.set()
    waits = pool.job(request(app, 4, True))
    pool.job(request(app, 5))
    pool.job(request(app, 6), alive)

    pool.flush()  # Celery's, from Consumer.on_close

    assert pool.flushed == 1
    assert list(pool._pool._cache.values()) == [runs, written, died, waits]
    assert list(pool._pool.outbound_buffer) == [died, waits]


@pytest.fixture
def full() -> tuple[Prefork, Any, list[Any], list[Any]]:
    """Return a pool of two processes with its intake, the two jobs that run, and three requests, of which one waits."""
    app = Celery("shop", set_as_current=False)
    pool = Prefork()
    intake: Any = pools.intake_of(pool, hub=SimpleNamespace(add_reader=lambda *_: None))
    jobs: list[Any] = []

    def begin(about: Any) -> None:
        process = SimpleNamespace(_is_alive=lambda: True)
        jobs.append(pool.job(about, process, accepted=True))

    requests = [request(app, number) for number in range(3)]
    for one in requests:
        pool._pool._putlock.acquire(lambda one=one: intake.when_free(begin, one))
    intake._heard()
    assert len(jobs) == 2
    return pool, intake, jobs, requests


def end(pool: Prefork, job: Any) -> None:
    # Like billiard's ResultHandler.
    pool._pool._putlock.release()
    job._set(None, (True, None))


def test_a_request_that_is_taken_back_leaves_its_slot(full: Any) -> None:
    pool, intake, jobs, requests = full
    end(pool, jobs[0])  # the third one has this slot now, and the loop has not begun it
    assert intake.take() == [requests[2]]
    assert pool._pool._putlock.value == 1
    end(pool, jobs[1])
    assert pool._pool._putlock.value == 2


def test_a_job_of_a_process_that_ends_takes_no_place(full: Any) -> None:
    pool, intake, jobs, _ = full
    jobs[1]._write_to.fleet_ends = True
    pool.num_processes = 1
    intake._admit()
    assert len(jobs) == 2
    end(pool, jobs[0])
    intake._heard()
    assert len(jobs) == 3


def test_solo_notices_the_signal_after_its_task_and_begins_no_other() -> None:
    app = Celery("shop", set_as_current=False)
    pool = Solo(limit=1, app=app)
    intake = pools.intake_of(pool)
    heard: list[str] = []
    intake.on_freed = lambda: heard.append("freed")
    ran: list[int] = []

    def first() -> None:
        intake.shut()  # a signal during the task
        ran.append(0)

    later = request(app, 1)
    begin(pool, first, request(app, 0))
    assert heard == ["freed"]
    begin(pool, lambda: ran.append(1), later)

    assert ran == [0]
    assert intake.take() == [later]


class Hub:
    """An event loop that runs when the test says so."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.ready.append(callback)

    def run(self) -> None:
        while self.ready:
            self.ready.pop(0)()


@contextmanager
def raising(kind: str) -> Iterator[Callable[..., list[Any]]]:
    """Give a function that runs a task that raises, and returns what its request was told."""
    app = Celery("shop", set_as_current=False)
    pool = {"threads": Threads, "solo": Solo, "gevent": Greenlets}[kind](limit=1, app=app)
    pool.start()
    hub = Hub()
    pools.intake_of(pool, hub=hub)

    def run(exc: BaseException, timeout: float | None = None) -> list[Any]:
        told: list[Any] = []
        made = request(app, 0)
        state.task_reserved(made)

        def target() -> None:
            gevent.sleep(0)
            raise exc

        def ended(info: Any) -> None:
            assert threading.current_thread() is threading.main_thread(), "not in the loop"
            state.task_ready(made)
            told.append(info.exception.exc)

        def limited(soft: bool, seconds: float) -> None:
            state.task_ready(made)
            told.append((soft, seconds))

        made.on_accepted = lambda *_: None
        pool.apply_async(
            target,
            callback=lambda result: (state.task_ready(made), told.append(result)),
            error_callback=ended,
            accept_callback=type("A", (), {"__self__": made, "__call__": lambda *_: None})(),
            timeout_callback=limited,
            timeout=timeout,
        )
        until = time.monotonic() + 10
        while made in state.reserved_requests and time.monotonic() < until:
            hub.run()
            gevent.sleep(0.01)
        assert made not in state.reserved_requests, "it is held for ever"
        return told

    yield run
    pool.on_stop()


@pytest.mark.parametrize("kind", ["threads", "solo", "gevent"])
def test_errors_that_are_no_exception_reach_the_request(kind: str) -> None:
    with raising(kind) as run:
        for error in (SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()):
            assert run(error) == [error]


@pytest.mark.parametrize("kind", ["threads", "gevent"])
def test_what_celerys_tracer_raises_reaches_the_request(kind: str) -> None:
    """With solo, such an error ends the worker, as in stock Celery."""
    with raising(kind) as run:
        for error in (MemoryError(), WorkerShutdown(0)):
            assert run(error) == [error]


def test_a_timeout_of_gevent_is_an_error_unless_it_is_a_time_limit() -> None:
    with raising("gevent") as run:
        error = gevent.Timeout(5)
        assert run(error) == [error]
        assert run(gevent.Timeout(5), timeout=60) == [(False, 60)]
        # Celery kills a greenlet to terminate its task.
        assert run(gevent.GreenletExit()) == [(False, None, None)]


@pytest.mark.parametrize("error", [WorkerShutdown(0), MemoryError()])
def test_what_ends_a_solo_worker_still_does(error: BaseException) -> None:
    app = Celery("shop", set_as_current=False)
    solo = Solo(limit=1, app=app)
    pools.intake_of(solo)

    def target() -> None:
        raise error

    with pytest.raises(type(error)):
        solo.apply_async(target, callback=print, error_callback=pytest.fail)


def test_an_error_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("shop", set_as_current=False)
    solo = Solo(limit=1, app=app)
    pools.intake_of(solo)

    def target() -> None:
        raise SystemExit

    def failing(_: Any) -> None:
        raise ValueError("the result store does not answer")

    solo.apply_async(target, callback=print, error_callback=failing)
    assert "the result store does not answer" in caplog.text


def test_a_task_that_can_not_begin_stops_no_other_one_that_waits_for_a_thread() -> None:
    app = Celery("shop", set_as_current=False)
    pool = Threads(limit=1, app=app)
    readers: dict[int, Callable[[], None]] = {}
    intake = pools.intake_of(pool, hub=SimpleNamespace(add_reader=readers.__setitem__))
    intake.connect()
    ((ended, heard),) = readers.items()
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go.wait(30)

    def fails(_: Any) -> None:
        raise OSError("no such luck")

    intake.when_free(lambda about: begin(pool, work, about), request(app, 0))
    assert began.wait(30)
    ran: list[str] = []
    intake.when_free(fails, request(app, 1))
    intake.when_free(lambda about: ran.append(about.id), request(app, 2))
    assert ran == []
    go.set()
    for told in (pytest.raises(OSError, match="no such luck"), nullcontext()):
        assert select.select([ended], [], [], 30)[0]
        with told:
            heard()
    assert ran == ["t2"]
    pool.on_stop()
