"""Renew the lease and sweep in a thread with its own connection.

The thread continues even if a broker that hangs, or a task in the solo pool, blocks the worker's loop. With gevent and
eventlet it is a greenlet, which stops while a task computes without waiting. So does the watchdog's greenlet, and then
the watchdog ends the worker long before a lease expires.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis
from celery import bootsteps, signals

from celery_fleet.common.errors import error_text
from celery_fleet.common.periodic import Periodic
from celery_fleet.delivery import tags
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.lease import internals as hold
from celery_fleet.delivery.lease.renewal import Lease
from celery_fleet.delivery.lease.sweep import Broker, Sweep
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage.internals import held

logger = logging.getLogger("celery_fleet.delivery.lease")

#: Seconds between two sweeps, varied by a fifth so that workers don't sweep at the same time.
EVERY = 5.0
JITTER = 0.2

#: Seconds after a new connection in which we look for messages that the old one left behind.
SUSPICIOUS = 60.0

#: Longest and shortest timeout in seconds for connecting, for sending, and for each answer. The sweep sends large
#: messages with a longer one.
TIMEOUT = 3.0
SHORTEST_TIMEOUT = 1.0

#: Seconds until the next attempt after an unexpected error.
RETRY = 2.0

#: Seconds without a sweep after a new connection, and after the broker was away or refused writes. It may have been so
#: for the other workers as well, and then their messages look abandoned until they renew them. They try every two
#: seconds, and an attempt lasts at most twice the timeout.
PATIENCE = 2 * TIMEOUT + RETRY

#: kombu's visibility timeout, if the application sets none.
VISIBILITY = 3600.0


class WorkerAccess:
    """Access to the broker of a worker in this process. Use it in one thread only."""

    def __init__(self, worker: Any, timeout: float) -> None:
        #: How often the worker has connected.
        self.times = 0
        self._worker = worker
        self._timeout = timeout
        self._channel: Any = None
        self._address: tuple[Any, ...] | None = None
        self._client: redis.Redis | None = None
        self._broker: Broker | None = None

    @property
    def connected(self) -> bool:
        """Return whether the worker has a channel now."""
        return hold.channel_of(self._worker) is not None

    def broker(self) -> Broker | None:
        """Return the broker from which the worker fetches, or last fetched; None before the first connection."""
        channel = hold.channel_of(self._worker)
        if channel is None or channel is self._channel:
            return self._broker
        address = hold.address_of(channel)
        if self._client is None or address != self._address:
            if self._client is not None:
                self._client.close()
            self._client = hold.client_of(channel, self._timeout)
            self._address = address
        self._broker = hold.broker_of(channel, self._client)
        self._channel = channel
        self.times += 1
        return self._broker

    def held(self) -> set[str]:
        """Return the tags of all messages that run or wait in this process."""
        channel = hold.channel_of(self._worker)
        return hold.running() | (set() if channel is None else held(channel))

    def awaited(self) -> set[str]:
        """Return the tags of fetches that may still bring a message."""
        channel = hold.channel_of(self._worker)
        return set() if channel is None else hold.awaited(channel)


class LeaseThread(Periodic):
    """Renews the lease and sweeps, each when it is due."""

    def __init__(
        self,
        lease: Lease,
        sweep: Sweep,
        access: WorkerAccess,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("celery_fleet.lease")
        self.lease = lease
        self.sweep = sweep
        self._access = access
        self._every = every
        self._clock = clock
        self._sweep_at = clock()
        self._suspicious_until = float("-inf")
        self._times = 0
        self._trouble: str | None = None

    def step(self) -> float:
        """Renew and sweep if that is due; return the seconds until the next step."""
        try:
            broker = self._access.broker()
            if broker is None:
                # The broker may have been away since before this process started.
                self._be_patient()
            elif self._renew_and_sweep(broker):
                self._found(None)
        except (redis.RedisError, OSError) as exc:
            self._be_patient()
            self._found(error_text(exc))
        return max(0.0, min(self.lease.due_in, self._sweep_at - self._clock(), self._every))

    def _be_patient(self) -> None:
        self._sweep_at = max(self._sweep_at, self._clock() + PATIENCE)

    def _renew_and_sweep(self, broker: Broker) -> bool:
        """Do what is due; return whether Redis was asked, and answered."""
        due = self.lease.due_in <= 0
        if due:
            if self.lease.lapsed:
                # If this process was suspended, for example with its host, other workers may have been, too.
                self._be_patient()
            # A worker without messages notices by its sweeps that Redis refuses writes. Until it may sweep, it asks.
            ask = self._trouble is not None or not self._access.connected
            self.lease.renew(broker.run, broker.index, ask)
        now = self._clock()
        if self._times != self._access.times:
            self._times = self._access.times
            self._suspicious_until = now + SUSPICIOUS
            # The broker may have been away between two of our renewals, and longer for other workers.
            self._be_patient()
        if now < self._sweep_at:
            return due
        self._sweep_at = now + self._every * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret
        if not self._access.connected:
            return due
        if self.sweep.round(broker, now < self._suspicious_until):
            self._sweep_at = now
        return True

    def _found(self, trouble: str | None) -> None:
        if trouble is not None and self._trouble is None:
            logger.warning("the lease can't be renewed now and is tried again: %s", trouble)
        elif trouble is None and self._trouble is not None:
            logger.info("the broker answers the lease again")
        self._trouble = trouble

    def turn(self) -> float:
        """Run a step and log any error; return the seconds until the next step."""
        try:
            return max(self.step(), 0.05)
        except Exception:
            logger.exception("lease or sweep failed")
            return RETRY


#: Returns further tags for which this process is responsible although their tasks have ended: unsent acknowledgements.
Done = Callable[[], Iterable[str]]


def install(app: Any, options: Options, done: Done = tuple) -> Callable[[bool], None]:
    """Add lease and sweep to the app's worker if they are enabled, before it builds its blueprints.

    Args:
        app: The Celery app.
        options: The enabled parts of the delivery.
        done: Returns the tags of tasks that have ended but are not acknowledged yet.

    Returns:
        A function to call with the watchdog's verdict: whether the worker works.
    """
    threads: list[LeaseThread] = []

    def verdict(good: bool) -> None:
        for thread in threads:
            if good:
                thread.lease.resume()
            else:
                thread.lease.end("the watchdog has given up this worker")

    if not (options.atomic and options.lease):
        return verdict
    # The thread sweeps, by Redis's clock. kombu's own function would block the loop and use the host's clock.
    HOOKS.sweep = lambda _: None

    class Keep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Starts the thread once the pool has forked and before the broker is connected."""

        name = "celery_fleet.Keep"
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            thread = make(worker, options, done)
            threads.append(thread)
            # Don't stop it in this step's stop(): tasks still run after that, and need their lease until they end.
            signals.worker_shutdown.connect(
                lambda **_: thread.stop(), weak=False, dispatch_uid="celery_fleet.lease"
            )
            thread.start()

    app.steps["worker"].add(Keep)
    return verdict


def make(worker: Any, options: Options, done: Done = tuple) -> LeaseThread:
    """Return the lease thread of a worker."""
    given = (worker.app.conf.broker_transport_options or {}).get("visibility_timeout")
    seconds = float(given or VISIBILITY)
    access = WorkerAccess(worker, min(TIMEOUT, max(SHORTEST_TIMEOUT, seconds / 10)))

    def held() -> set[str]:
        return access.held().union(done())

    def known() -> set[str]:
        return held() | access.awaited()

    owner = tags.owner()
    return LeaseThread(
        Lease(held, seconds, awaited=access.awaited),
        Sweep(owner, known, seconds, options.stock_visibility),
        access,
        every=min(EVERY, seconds / 5),
    )
