# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Take back the tasks that a pool of Celery 5.7 has received and not started.

The private attributes were checked in the sources of celery 5.7.0. Each pool has one `PoolIntake` for its whole life.
Call everything but `PoolIntake.shut` only in the event loop's own thread or in a greenlet.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from typing import Any

from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import state as worker_state
from celery.worker.request import Request

from celery_fleet.compat.task_errors import reported

#: The attribute of a process that ends after its task.
ENDS = "fleet_ends"

PREFORK, _THREADS, _SOLO, GREENLETS = "prefork", "threads", "solo", "gevent"


def kind_of(pool: Any) -> str | None:
    """Return the kind of a pool that `PoolIntake` supports; None for any other pool."""
    modules = {cls.__module__.removeprefix("celery.concurrency.") for cls in type(pool).__mro__}
    if hasattr(getattr(pool, "_pool", None), "outbound_buffer"):  # prefork with an event loop
        return PREFORK
    if "thread" in modules:
        return _THREADS
    if "solo" in modules:
        return _SOLO
    # Don't support eventlet, which its own authors advise against. Such a worker stops as in stock Celery.
    return GREENLETS if "gevent" in modules else None


class PoolIntake:
    """Controls which tasks a pool starts, and takes back those that it has not."""

    #: Set in a signal handler: the pool starts no further tasks, if that is possible.
    closed = False
    #: Called in the event loop when a task has ended that prevented the loop from noticing the signal.
    on_freed: Callable[[], object] | None = None

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def shut(self) -> None:
        """Start no further tasks. One that starts anyway runs to its end. Safe in any thread or signal handler."""
        self.closed = True

    def connect(self) -> None:
        """Have the event loop hear of this pool on a new connection."""

    def when_free(self, begin: Callable[[Any], object], request: Any) -> None:
        """Call ``begin`` with a request; a pool that queues what it gets waits until it can run the task."""
        begin(request)

    def at_work(self) -> int:
        """Return the number of tasks that the pool was given and has not ended."""
        return len(getattr(getattr(self.pool, "_pool", None), "_cache", ()))

    def drop(self) -> None:
        """Forget the tasks of a lost connection that have not started; kombu puts their messages back."""
        for request in self.take():
            worker_state.task_ready(request)
            request.acknowledged = True

    def take(self) -> list[Any]:
        """Remove and return the requests that the pool has received but not started.

        One that is acknowledged already stays and runs (delivery/fetch/at_most_once.py): no other worker can get it.
        """
        return []


def _request_of(accept_callback: Any) -> Any | None:
    request = getattr(accept_callback, "__self__", None)
    return request if isinstance(request, Request) else None


class _Queued(PoolIntake):
    """Controls a pool that queues what it gets: a request that may wait for a place in it waits here instead."""

    def __init__(self, pool: Any, hub: Any) -> None:
        super().__init__(pool)
        self._hub = hub
        self._waiting: deque[tuple[Callable[[Any], object], Any]] = deque()
        #: Wakes the event loop, also from other threads.
        self._ended = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def connect(self) -> None:
        if self._hub is not None:
            self._hub.add_reader(self._ended, self._heard)

    def when_free(self, begin: Callable[[Any], object], request: Any) -> None:
        self._waiting.append((begin, request))
        self._admit()

    def _busy(self) -> int:
        return self.at_work()

    def _freed(self) -> None:
        # Threads call this, too. If it sees no request that waits, `_admit` sees the free place.
        if self._waiting:
            os.eventfd_write(self._ended, 1)

    def _heard(self) -> None:
        os.eventfd_read(self._ended)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._busy() < self.pool.num_processes:
            begin, request = self._waiting.popleft()
            try:
                begin(request)
            except BaseException:
                self._freed()  # the loop goes on with the others
                raise

    def take(self) -> list[Any]:
        taken = [request for _, request in self._waiting]
        self._waiting.clear()
        return taken


class _Prefork(_Queued):
    """Controls celery/concurrency/asynpool.py: a buffer of jobs, and pipes to the processes.

    Its semaphore lets in one job too many after each process that has ended, and more after a lost connection.
    """

    def __init__(self, pool: Any, hub: Any) -> None:
        super().__init__(pool, hub)
        #: The semaphore, which also holds requests that wait for it.
        self._slots = pool._pool._putlock
        self._release, self._slots.release = self._slots.release, self._released
        self._flush_all, pool.flush = pool.flush, self._flush

    def _released(self) -> None:
        self._release()
        self._freed()  # the job is about to leave the pool's cache

    def _flush(self) -> None:
        """Forget what `AsynPool.flush` forgets, except the jobs that no other worker can get.

        It forgets all that have not started, but the messages of some are acknowledged already
        (delivery/fetch/at_most_once.py). Before Celery 5.6 it also forgets those that run, with their time limits.
        """
        self._waiting.clear()
        inner = self.pool._pool
        jobs = dict(inner._cache)
        self._flush_all()
        for number, job in jobs.items():
            request = _request_of(job._accept_callback)
            keeps = job._accepted or (request is not None and request.acknowledged)
            if not keeps or job.ready():
                continue
            inner._cache[number] = job
            given = job._accepted or (job._write_to is not None and job._write_to._is_alive())
            if not given:
                inner.outbound_buffer.append(job)

    def when_free(self, begin: Callable[[Any], object], request: Any) -> None:
        # The pool may be growing, and has not forked its new processes yet. So let the loop decide.
        self._waiting.append((begin, request))
        self._freed()

    def _busy(self) -> int:
        # Processes that end after their task (compat/pool_size.py) count no more, and neither do their jobs.
        jobs = self.pool._pool._cache.values()
        return sum(not hasattr(job._write_to, ENDS) for job in jobs)

    def take(self) -> list[Any]:
        requests = super().take()
        requests += [request for _, args, _ in self._slots._waiting for request in args]
        self._slots._waiting.clear()
        buffer: Any = self.pool._pool.outbound_buffer
        for job in list(buffer):
            request = _request_of(job._accept_callback)
            # A child will run a job if the first byte of it has been written.
            if job._accepted or job._write_to or request is None or request.acknowledged:
                continue
            buffer.remove(job)
            job.discard()
            requests.append(request)
        # Each that waited in front of the pool had a slot, too.
        self._slots.value = max(self._slots.initial_value - self._busy(), 0)
        return requests


class _Threads(_Queued):
    """Controls celery/concurrency/thread.py: an executor's queue with futures that know whether they have started."""

    def __init__(self, pool: Any, hub: Any) -> None:
        super().__init__(pool, hub)
        # Celery keeps only a weak reference to the futures, so keep a strong one.
        self._futures: dict[Any, Future[Any]] = {}
        self._submit = pool.on_apply
        pool.on_apply, pool.flush = self._apply, self.drop

    def at_work(self) -> int:
        return len(self._futures)

    def _apply(self, target: Any, *args: Any, accept_callback: Any = None, **options: Any) -> Any:
        target, options = reported(target, options, hub=self._hub)
        result = self._submit(target, *args, accept_callback=accept_callback, **options)
        request = _request_of(accept_callback)
        if request is not None:
            self._futures[request] = result.f
            result.f.add_done_callback(lambda _: self._done(request))
        return result

    def _done(self, request: Any) -> None:
        # In the task's thread.
        self._futures.pop(request, None)
        self._freed()

    def take(self) -> list[Any]:
        # Threads may end at the same time, so copy in one step. cancel() returns False if a task has started.
        given = self._futures.copy().items()
        taken = [one for one, future in given if not one.acknowledged and future.cancel()]
        return taken + super().take()


class _Solo(PoolIntake):
    """Controls celery/concurrency/solo.py: the event loop runs each task itself, and handles no signals during a task.

    Tasks that would start between the signal and the next turn of the loop are kept here.
    """

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self._kept: list[Any] = []
        self._run = pool.on_apply
        pool.on_apply, pool.flush = self._apply, self.drop

    def _apply(self, target: Any, *args: Any, accept_callback: Any = None, **options: Any) -> Any:
        request = _request_of(accept_callback)
        if self.closed and request is not None and not request.acknowledged:
            self._kept.append(request)
            return None
        # An Exception, such as a MemoryError, ends the worker. Celery's signal handlers raise the last two.
        left = (Exception, WorkerShutdown, WorkerTerminate)
        target, options = reported(target, options, left)
        try:
            return self._run(target, *args, accept_callback=accept_callback, **options)
        finally:
            if self.closed and self.on_freed is not None:
                self.on_freed()

    def take(self) -> list[Any]:
        kept, self._kept = self._kept, []
        return kept


class _Waiter:
    """A greenlet that has a task and waits for a slot of the pool."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.granted = False
        self.taken = False
        self.told = threading.Event()  # patched by gevent, so other greenlets run


class _Gevent(PoolIntake):
    """Controls celery/concurrency/gevent.py: every greenlet with a task waits for a slot, even the consumer's.

    They wait here instead of inside gevent's pool, from which they could not be removed. While one waits, no slot is
    free, so the pool's own queue stays empty.
    """

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        gevent: Any = import_module("gevent")
        #: A greenlet is killed by the first one, and reaches its time limit by the second one.
        self._exit, self._timeout = gevent.GreenletExit, gevent.Timeout
        self._waiting: deque[_Waiter] = deque()
        self._granted = 0
        self._begin, self._put, self._grow = pool.on_apply, pool._quick_put, pool.grow
        pool.on_apply, pool._quick_put, pool.grow = self._apply, self._spawn, self._grown
        pool.flush = self.drop

    def _free(self) -> int:
        return int(self.pool._pool.free_count()) - self._granted

    def _apply(self, target: Any, *args: Any, accept_callback: Any = None, **options: Any) -> Any:
        request = _request_of(accept_callback)
        if request is not None and not self._wait_for_a_slot(request):
            return None
        limited = options.get("timeout") or self.pool.timeout
        left = (self._exit, self._timeout) if limited else (self._exit,)
        target, options = reported(target, options, left)
        return self._begin(target, *args, accept_callback=accept_callback, **options)

    def _wait_for_a_slot(self, request: Any) -> bool:
        """Wait for a slot; return False if the request was taken back in the meantime."""
        if self._may_begin(request) and not self._waiting and self._free() > 0:
            return True
        waiter = _Waiter(request)
        self._waiting.append(waiter)
        try:
            waiter.told.wait()
        finally:  # a greenlet can be killed while it waits
            if waiter.granted:
                self._granted -= 1
            elif not waiter.taken:
                with suppress(ValueError):
                    self._waiting.remove(waiter)
        return not waiter.taken

    def _may_begin(self, request: Any) -> bool:
        return not self.closed or bool(request.acknowledged)

    def _spawn(self, *args: Any, **options: Any) -> Any:
        greenlet = self._put(*args, **options)
        greenlet.link(self._ended)
        return greenlet

    def _ended(self, _: Any) -> None:
        self._admit()

    def _grown(self, *args: Any, **options: Any) -> Any:
        result = self._grow(*args, **options)
        self._admit()
        return result

    def _admit(self) -> None:
        for waiter in [one for one in self._waiting if self._may_begin(one.request)]:
            if self._free() <= 0:
                return
            self._waiting.remove(waiter)
            waiter.granted = True
            self._granted += 1
            waiter.told.set()

    def take(self) -> list[Any]:
        waiting = [one for one in self._waiting if not one.request.acknowledged]
        for waiter in waiting:
            self._waiting.remove(waiter)
            waiter.taken = True
            waiter.told.set()
        return [waiter.request for waiter in waiting]


def intake_of(pool: Any, hub: Any = None) -> PoolIntake:
    """Return the pool's `PoolIntake`. The first call creates it, and must come after the pool has started."""
    intake: PoolIntake | None = pool.__dict__.get("fleet_intake")
    if intake is None:
        kind = kind_of(pool)
        if kind == PREFORK:
            intake = _Prefork(pool, hub)
        elif kind == _THREADS:
            intake = _Threads(pool, hub)
        elif kind == _SOLO:
            intake = _Solo(pool)
        elif kind == GREENLETS:
            intake = _Gevent(pool)
        else:
            intake = PoolIntake(pool)
        pool.fleet_intake = intake
    return intake
