"""Prevent a broker that hangs from blocking the worker's main thread.

The main thread runs the event loop, which handles results of the pool, time limits and signals. If Redis does not
answer, a command would block it for the socket's timeout, and retries of redis-py and kombu for the whole outage. So
the first command without an answer in time opens the breaker. From then on the main thread sends nothing until a
separate thread gets an answer.

Other threads and the pool's children may wait, so the breaker does not affect them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from celery_fleet.common.errors import error_text
from celery_fleet.compat.tasks import running_task

logger = logging.getLogger("celery_fleet.delivery")

#: Longest time in seconds that the main thread waits for a connection or a reply. When a connection is set up, Celery
#: may wait another second for the other workers (mingle).
LIMIT = 2.5

#: Seconds after which a reply that the event loop awaits is overdue.
OVERDUE = 2.5

#: Seconds between two attempts to reach the broker.
PAUSE = 0.5

#: Longest pause in seconds before the first attempt, if the broker answers and fails repeatedly.
LONGEST_PAUSE = 5.0

#: Seconds without a failure after which the next failure counts as the first.
SETTLED = 10.0


class BrokerAwayError(Exception):
    """Nothing was sent, because the broker does not answer.

    This is deliberately not one of kombu's connection errors: kombu would sleep and retry in the thread that must not
    sleep.
    """


class Breaker:
    """Is open while the broker does not answer.

    Args:
        probe: Asks the broker in a separate thread, in a limited time; raises an exception if it does not answer.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        *,
        pause: float = PAUSE,
        longest: float = LONGEST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        #: Called in the probe's thread when the broker answers again.
        self.on_closed: list[Callable[[], object]] = []
        self._probe = probe
        self._pause = pause
        self._longest = longest
        self._clock = clock
        self._guarded: tuple[int, int] | None = None
        self._open = False
        self._since = 0.0
        self._closed_at = float("-inf")
        self._in_a_row = 0
        self._told = False
        self._ended = threading.Event()

    # --- the guarded thread ---

    def adopt(self) -> None:
        """Guard the calling thread of this process, which must not be blocked."""
        self._guarded = (os.getpid(), threading.get_ident())

    @property
    def concerned(self) -> bool:
        """Return whether the caller is the guarded thread; False in a child of the pool and in a solo pool's task."""
        here = (os.getpid(), threading.get_ident())
        return self._guarded == here and running_task() is None

    # --- open or not ---

    @property
    def open(self) -> bool:
        """Return whether the broker is known not to answer."""
        return self._open

    @property
    def seconds(self) -> float:
        """Return for how many seconds the breaker has been open; 0 if it is closed."""
        return self._clock() - self._since if self._open else 0.0

    def check(self) -> None:
        """Check that the caller may wait for the broker.

        Raises:
            BrokerAwayError: The caller is the guarded thread, and the broker does not answer.
        """
        if self._open and self.concerned:
            raise BrokerAwayError("the broker does not answer; a separate thread keeps asking it")

    def trip(self, why: object) -> None:
        """Open the breaker, because the broker did not answer the guarded thread.

        Calling it again, or in another thread, has no effect.
        """
        if self._open or not self.concerned:
            return
        settled = self._clock() - self._closed_at > SETTLED
        self._in_a_row = 0 if settled else self._in_a_row + 1
        self._since = self._clock()
        self._open = True
        self._told = False
        logger.info("a separate thread asks the broker: %s", error_text(why))
        wait = min(self._pause * 2 ** (self._in_a_row - 1), self._longest) if self._in_a_row else 0
        threading.Thread(
            target=self._ask, args=(wait,), name="celery_fleet.breaker", daemon=True
        ).start()

    def end(self) -> None:
        """Stop asking the broker, because the worker ends."""
        self._ended.set()

    def _ask(self, wait: float) -> None:
        # Always pause, because the broker may answer at once and refuse the request.
        while not self._ended.wait(wait):
            try:
                self._probe()
            except Exception as exc:  # noqa: BLE001  # any error means that there is no answer
                wait = self._pause
                if not self._told:
                    self._told = True
                    logger.warning(
                        "the broker does not answer (%s): running tasks and their time limits go on, and"
                        " nothing is sent to it until it answers",
                        error_text(exc),
                    )
                continue
            if self._told:
                logger.warning("the broker answers again after %.1f s", self.seconds)
            self._closed_at = self._clock()
            self._open = False
            for told in self.on_closed:
                told()
            return


# --- redis-py's connections ---


def guarded(base: type[Any], breaker: Breaker) -> type[Any]:
    """Return a subclass of a redis-py connection. Its commands fail at once while the breaker is open."""

    class Guarded(base):  # type: ignore[misc]  # any of redis-py's classes
        """A connection that never blocks the guarded thread for long."""

        def connect(self) -> None:
            breaker.check()
            try:
                super().connect()
            except (RedisConnectionError, RedisTimeoutError, OSError) as exc:
                breaker.trip(exc)
                raise

        def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            breaker.check()
            try:
                super().send_packed_command(*args, **kwargs)
            except RedisTimeoutError as exc:
                breaker.trip(exc)
                raise

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            # redis-py's PubSub found the socket readable, but then reads without a timeout.
            if kwargs.get("timeout", LIMIT) is None and breaker.concerned:
                kwargs["timeout"] = LIMIT
            try:
                return super().read_response(*args, **kwargs)
            except RedisTimeoutError as exc:
                breaker.trip(exc)
                raise

    return Guarded


def guard(parameters: dict[str, Any], breaker: Breaker) -> dict[str, Any]:
    """Return the parameters of a connection pool, changed so that no connection blocks the guarded thread for long.

    The parameters for other threads and for children of the worker's pool stay the same.
    """
    if not breaker.concerned:
        return parameters
    bounded: dict[str, Any] = {
        name: min(parameters.get(name) or LIMIT, LIMIT)
        for name in ("socket_timeout", "socket_connect_timeout")
        if name in parameters
    }
    return {
        **parameters,
        **bounded,
        "connection_class": guarded(parameters["connection_class"], breaker),
        # redis-py would retry each command three times, and so send it again.
        "retry": Retry(NoBackoff(), 0),
    }
