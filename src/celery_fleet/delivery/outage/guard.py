"""The outage guard of a process: the parts that keep a worker running while its broker does not answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError
from kombu.messaging import Producer
from redis.exceptions import OutOfMemoryError, RedisError

from celery_fleet.compat import broker as compat_broker
from celery_fleet.compat import worker
from celery_fleet.delivery.hooks import Hooks
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage import internals, pending, results, send_queue
from celery_fleet.delivery.outage.breaker import LIMIT, OVERDUE, Breaker, guard
from celery_fleet.delivery.outage.carry_over import AckCarryOver
from celery_fleet.delivery.outage.send_queue import SendQueue
from celery_fleet.supervision import broker

logger = logging.getLogger("celery_fleet.delivery")


#: Seconds between two checks whether the worker has been told to end.
LOOK = 1.0

#: Methods of the result store that the main process itself calls.
RESULTS = ("mark_as_failure", "mark_as_revoked", "mark_as_retry")


class OutageGuard:
    """The enabled parts for all connections of this process.

    Args:
        app: The Celery app.
        options: The enabled parts.
        directory: The runtime directory; if None, acknowledgements that can't be sent are only kept in memory.
        draining: Returns whether the worker fetches no more tasks and ends after the last one.
    """

    def __init__(
        self,
        app: Any,
        options: Options,
        directory: Path | None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        #: Whether the main thread must not wait for the broker.
        self.guards = options.outage
        self.draining = draining
        self.breaker = Breaker(self._probe)
        path = directory / pending.NAME if directory else None
        self.carry = AckCarryOver(pending.Pending(path)) if options.carry else None
        #: The broker URL that answered last, if there are several; else None.
        self.answering: str | None = None
        self.events: SendQueue[Any] | None = None
        self.results: SendQueue[Any] | None = None
        #: When the worker was told to end, also visible to the pool's children.
        self.deadline = results.ShutdownDeadline()
        self._app = app
        self._dispatcher: Any = None
        self._publishing: Any = None

    # --- the probe's thread ---

    def _probe(self) -> None:
        """Ask the brokers of the process until one answers.

        Raises:
            Exception: None of them answers.
        """
        endpoints = compat_broker.endpoints(self._app)
        if not endpoints:  # not Redis
            with self._app.connection_for_read() as connection:
                connection.ensure_connection(max_retries=1, timeout=broker.TIMEOUT)
            return
        urls = self._app.connection_for_read().alt or []
        failures = []
        for number, endpoint in enumerate(endpoints):
            try:
                # A primary without replicas answers, but hands out nothing.
                broker.ping(endpoint, queueing=endpoint.primary is not None, timeout=LIMIT)
            except OutOfMemoryError:  # tasks can still be fetched
                return
            except (RedisError, OSError) as exc:
                failures.append(exc)
            else:
                self.answering = urls[number] if len(urls) == len(endpoints) > 1 else None
                return
        raise failures[0]

    # --- the transport ---

    def tick(self, channel: Any) -> None:
        """Give up a connection on which an answer is overdue; called before each wait of the loop.

        Raises:
            BrokerAwayError: The broker does not answer.
        """
        if not self.breaker.open and channel.overdue(OVERDUE):
            self.breaker.trip(f"no reply for {OVERDUE:g} s")
        self.breaker.check()

    def hooks(self, hooks: Hooks) -> None:
        """Set the transport's hooks."""
        if self.carry is not None:
            hooks.keep = self.carry.keep
            hooks.ack_failed = self.carry.ack_failed
            hooks.requeue_failed = self.carry.requeue_failed
        if self.guards:
            hooks.parameters = partial(guard, breaker=self.breaker)
            hooks.tick = self.tick

    # --- the consumer ---

    def begin(self, consumer: Any) -> None:
        """Prepare for a starting consumer, in the thread that will run it."""
        solo = getattr(consumer.pool, "__module__", "") == "celery.concurrency.solo"
        if not self.guards:
            return
        # Do this with greenlets, too: a heartbeat that retries forever holds the dispatcher, so a stop would never end.
        self.events = send_queue.events_queue(self._publish)
        if (
            consumer.hub is not None and not solo
        ):  # the solo pool's main thread runs the tasks, and stores their results as they end
            self.results = send_queue.results_queue(self._store, self._store_is_away, _name_of)
            self._divert(self._app.backend)

    def look(self) -> None:
        """Note whether the worker was told to end.

        It is called once a second, and without a broker in each turn of the loop.
        """
        if self.draining() or worker.told_to_stop():
            self.deadline.give()

    def _divert(self, backend: Any) -> None:
        queue = self.results
        if queue is None:
            return

        def later(name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # The pool's children inherit this object, and store their results themselves.
            if self.breaker.concerned:
                return queue.put((name, args, kwargs))
            return original(*args, **kwargs)

        for name in RESULTS:
            setattr(backend, name, partial(later, name, getattr(backend, name)))

    def concerned(self) -> bool:
        """Return whether the caller is the thread of the event loop."""
        return self.breaker.concerned and self.results is not None

    # --- the threads of the send queues ---

    def _store(self, item: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
        name, args, kwargs = item
        getattr(self._app.backend, name)(*args, **kwargs)

    def _store_is_away(self, exc: Exception) -> bool:
        from celery.exceptions import BackendStoreError

        if isinstance(exc, OSError | BackendStoreError | OperationalError):
            return True
        return bool(self._app.backend.exception_safe_to_retry(exc))

    def _publish(self, item: tuple[Any, str]) -> None:
        event, routing_key = item
        dispatcher = self._dispatcher
        try:
            if self._publishing is None:
                options = {
                    **(self._app.conf.broker_transport_options or {}),
                    "socket_timeout": LIMIT,
                    "socket_connect_timeout": LIMIT,
                }
                connection = self._app.connection_for_write(transport_options=options)
                connection.ensure_connection(max_retries=1, interval_start=0)
                self._publishing = connection, Producer(connection, auto_declare=False)  # type: ignore[no-untyped-call]  # typed in part only
            self._publishing[1].publish(
                event,
                routing_key=routing_key,
                exchange=dispatcher.exchange.name,
                declare=[dispatcher.exchange],
                serializer=dispatcher.serializer,
                headers=dispatcher.headers,
                delivery_mode=dispatcher.delivery_mode,
                retry=False,
            )
        except Exception:
            gone, self._publishing = self._publishing, None
            if gone is not None:
                internals.abandon(gone[0])
            raise

    # --- steps ---

    def divert_events(self, dispatcher: Any) -> None:
        """Send the events of a connection's dispatcher through a send queue."""
        if self.events is not None:
            self._dispatcher = dispatcher
            internals.divert(dispatcher, self.events.put)

    def end(self) -> None:
        """Spend some seconds sending the remaining events, results and acknowledgements when the worker has ended."""
        self.breaker.end()
        if self.events is not None:
            self.events.close(send_queue.EVENTS_FLUSH)
        if self.results is not None:
            self.results.close(send_queue.RESULTS_FLUSH)
        if self.carry is not None and self.carry.pending:
            logger.warning(
                "%d acknowledgements could not be sent: %s",
                len(self.carry.pending),
                f"they are in {self.carry.pending.path}, and the next start sends them"
                if self.carry.pending.path
                else "there is no runtime directory to keep them in, so these tasks run again",
            )


def _name_of(item: tuple[str, tuple[Any, ...], dict[str, Any]]) -> str:
    name, args, kwargs = item
    return f"{name} of task {args[0] if args else kwargs.get('task_id')}"
