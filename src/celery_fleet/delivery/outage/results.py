"""Let a worker end even if the result store hangs.

A child of the pool stores the result of its task itself. It retries for as long as the settings say, which may be hours
and is useful while the worker runs. When the worker has been told to end, the child tries for :data:`AFTER` seconds.
Then it gives up the result and logs the task. The task is acknowledged nevertheless, because it has ended and would
otherwise run twice. A result on which other tasks depend is not given up (`sending.py`).
"""

from __future__ import annotations

import logging
import mmap
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from celery.backends.redis import RedisBackend
from celery.exceptions import BackendStoreError
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_fleet.common.errors import error_text
from celery_fleet.compat.minors import chosen as minors
from celery_fleet.delivery.outage.shared_memory import shared_memory

logger = logging.getLogger("celery_fleet.delivery")

Answer = TypeVar("Answer")

#: Seconds after which a result that can't be stored is given up, counted from the first attempt or from when the worker
#: was told to end, whichever is later. An attempt lasts as long as redis_socket_connect_timeout and
#: redis_socket_timeout.
AFTER = 20.0

#: Seconds that the event loop waits when it reads a result.
READ = 2.0

_TIME = struct.Struct("d")

#: When this thread or greenlet began to store a result, by the deadline's clock; 0 if it stores none.
_BEGAN = ContextVar("celery_fleet_storing_began", default=0.0)


class GivenUpError(Exception):
    """The worker ends, and there is no time left to store a result. Backends do not retry after this error."""


class ShutdownDeadline:
    """The time when the worker was told to end, shared by all of its processes. Create it before the pool starts."""

    def __init__(self, after: float = AFTER, clock: Callable[[], float] = time.monotonic) -> None:
        self._page = shared_memory("DEADLINE", mmap.PAGESIZE)
        self._after = after
        # The monotonic clock is the same in all processes of a host.
        self._clock = clock

    def give(self) -> None:
        """Note that the worker was told to end; calling it again changes nothing."""
        if not self.given:
            _TIME.pack_into(self._page, 0, self._clock())

    @property
    def given(self) -> float:
        """Return when the worker was told to end, by the clock; 0 if it was not."""
        when: float = _TIME.unpack_from(self._page)[0]
        return when

    @property
    def over(self) -> bool:
        """Return whether there is no time left to store the result that this thread is storing."""
        return bool(self.given) and self._clock() - max(self.given, _BEGAN.get()) > self._after

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Note when this thread began to store a result."""
        token = _BEGAN.set(self._clock())
        try:
            yield
        finally:
            _BEGAN.reset(token)

    def check(self) -> None:
        """Check that there is time left to store results.

        Raises:
            GivenUpError: There is no time left.
        """
        if self.over:
            # kombu calls this while it handles the store's error, and a task that sends something waits for that.
            raise GivenUpError(
                "the worker ends, and the result store does not answer"
            ) from sys.exc_info()[1]


def bound(backend: Any, deadline: ShutdownDeadline, concerned: Callable[[], bool]) -> Any:
    """Change a result backend so that its attempts end with the worker, and do not block the event loop.

    Args:
        backend: The result backend of a thread; it is not changed if it is not Redis.
        deadline: When the worker was told to end.
        concerned: Returns whether the caller is the event loop's thread.
    """
    if not isinstance(backend, RedisBackend):
        return backend
    # Only Celery's own policies retry.
    backend.connparams["retry"] = Retry(NoBackoff(), 0)
    ensure, safe = backend.ensure, minors.celery.safe_to_retry(backend)
    store, get = backend.store_result, backend.get

    def ensure_in_time(fun: Any, args: Any, **policy: Any) -> Any:
        return ensure(fun, args, **{"callback": deadline.check, **policy})

    def safe_in_time(exc: Exception) -> bool:
        return not deadline.over and bool(safe(exc))

    def store_in_time(task_id: Any, result: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        with deadline.storing():
            try:
                return store(task_id, result, state, *args, **kwargs)
            except Exception as exc:
                # BackendStoreError: Celery's own attempts are over. It would store a failure next, for as long.
                if not (deadline.over or (deadline.given and isinstance(exc, BackendStoreError))):
                    raise
                logger.error(
                    "the result of task %s (%s) is not stored, because the worker ends and the result store does not"
                    " answer: %s",
                    task_id,
                    state,
                    error_text(exc),
                )
                return result

    def get_in_time(key: Any) -> Any:
        return within(READ, partial(get, key)) if concerned() else get(key)

    for name, replacement in (
        ("ensure", ensure_in_time),
        ("exception_safe_to_retry", safe_in_time),
        ("store_result", store_in_time),
        ("get", get_in_time),
    ):
        setattr(backend, name, replacement)
    return backend


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Call ``ask`` in a separate thread; return its result or raise its exception.

    Raises:
        GivenUpError: The call takes longer than ``seconds``; the thread keeps running.
    """
    found: list[Answer] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as exc:  # noqa: BLE001  # raised again in the thread that asked
            raised.append(exc)

    thread = threading.Thread(target=run, name="celery_fleet.result", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not found:
        raise GivenUpError(f"the result store does not answer within {seconds:g} s")
    return found[0]
