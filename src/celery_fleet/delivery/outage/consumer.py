"""Extend Celery's consumer with the parts of the delivery that need it.

The class consists of `GuardedConsumer` and the application's ``worker_consumer``.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from celery.worker import state as worker_state
from kombu.exceptions import OperationalError

from celery_fleet.common.errors import error_text
from celery_fleet.compat.minors import chosen as minors
from celery_fleet.compat.mixin import Mixin
from celery_fleet.delivery.outage import internals
from celery_fleet.delivery.outage.breaker import BrokerAwayError

if TYPE_CHECKING:
    from celery_fleet.delivery.outage.guard import OutageGuard

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds between two checks of the breaker if there is no event loop to run in the meantime.
WITHOUT_LOOP = 0.1

#: Seconds between two log lines about a broker that is still away.
TELL_EVERY = 60.0


class GuardedConsumer(Mixin):  # type: ignore[misc]  # see mixin
    """A mixin for a consumer that survives a lost connection and a broker that hangs."""

    #: The outage guard of the process; a subclass sets it.
    fleet: OutageGuard

    # Celery's attributes, for the type checker
    app: Any
    hub: Any
    connection: Any
    connection_errors: tuple[type[Exception], ...]

    #: Tick functions that this connection's transport has added to the hub, which never removes them.
    _ticks: frozenset[Any] = frozenset()
    _other_ticks: frozenset[Any] = frozenset()
    #: Whether the cleanup after a lost connection has been done, so that Celery must not do it.
    _clean = False
    _event_dispatcher: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.fleet.breaker.adopt()
        super().__init__(*args, **kwargs)
        # kombu's pools raise OperationalError, which ends a stock worker.
        self.connection_errors = (*self.connection_errors, BrokerAwayError, OperationalError)
        if self.hub is not None:
            # Wake the loop from the probe's thread. Otherwise it would notice half a second later.
            self.fleet.breaker.on_closed.append(lambda: self.hub.call_soon(lambda: None))

    def start(self) -> None:
        """Consume on one connection after another until the worker stops."""
        self.fleet.breaker.adopt()  # this thread also runs the event loop
        self.fleet.begin(self)
        internals.keep_partial_reads(self)
        super().start()

    @property
    def event_dispatcher(self) -> Any:
        """Return Celery's event dispatcher."""
        return self._event_dispatcher

    @event_dispatcher.setter
    def event_dispatcher(self, dispatcher: Any) -> None:
        """Set the event dispatcher of a new connection, which has sent nothing yet."""
        self._event_dispatcher = dispatcher
        if dispatcher is not None:
            self.fleet.divert_events(dispatcher)

    # --- a lost connection ---

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Handle a connection that was lost or could not be used."""
        internals.forget_farewells(self)
        if self.hub is not None:
            self.hub.on_tick.difference_update(self._ticks)
        carry, connection = self.fleet.carry, self.connection
        if carry is None:
            try:  # put its messages back if the broker answers
                super().on_connection_error_after_connected(exc)
            except BrokerAwayError:
                internals.abandon(connection)
            self.fleet.breaker.trip(exc)
            # Celery does this since 5.7. `ensure_connected` only waits for the broker if there is no connection.
            if self.connection is not None:
                self.connection = None
                internals.abandon(connection)
            return
        self.fleet.breaker.trip(exc)
        logger.warning("consumer: connection to broker lost (%s)", error_text(exc))
        self._clean = carry.lost(self)
        self.connection = None
        internals.abandon(connection)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Handle a failure to connect, when there are no messages to put back."""
        self.fleet.breaker.trip(exc)
        self._clean = self.fleet.carry is not None
        super().on_connection_error_before_connected(exc)

    def on_close(self) -> None:
        """Clean up as Celery does, unless this would forget running tasks."""
        clean, self._clean = self._clean, False
        if not clean:
            super().on_close()
        minors.celery.forget_timers(self)

    def shutdown(self) -> None:
        """Shut down even if the broker no longer answers; acknowledgements that can't be sent are kept."""
        try:
            super().shutdown()
        except self.connection_errors as exc:
            logger.info("the worker can't announce its end to the broker: %s", error_text(exc))

    # --- the next connection ---

    def connect(self) -> Any:
        """Connect as soon as the broker answers."""
        made = super().connect()
        if self.hub is not None:
            self._ticks = frozenset(self.hub.on_tick) - self._other_ticks
        return made

    def ensure_connected(self, conn: Any) -> Any:
        """Connect a kombu connection while the hub keeps running.

        Raises:
            BrokerAwayError: The consumer has a connection but can't get a second one, so it starts over.
        """
        made = self._ensured(conn)
        if self.hub is not None:
            self._other_ticks = frozenset(self.hub.on_tick)
        return made

    def _ensured(self, conn: Any) -> Any:
        if not self.fleet.guards:
            return super().ensure_connected(conn)
        if self.connection:
            return self._connected(conn)
        while True:
            self.wait_for_broker()
            try:
                made = self._connected(conn)
            except (*self.connection_errors, *conn.channel_errors) as exc:
                logger.error("consumer: cannot connect to %s: %s", conn.as_uri(), error_text(exc))
                self.fleet.breaker.trip(exc)
            else:
                self.first_connection_attempt = False
                self.broker_connection_retry_attempt = 0
                return made

    def _connected(self, conn: Any) -> Any:
        url = self.fleet.answering
        if url is not None and url in (conn.alt or ()):
            conn.switch(url)
        # Don't call connect(), which sleeps and retries by itself.
        return conn.ensure_connection(max_retries=0, reraise_as_library_errors=False)

    def wait_for_broker(self) -> None:
        """Keep the pool, time limits and signals going until the broker answers.

        Raises:
            SystemExit: Celery raises it if the worker is told to stop.
        """
        breaker = self.fleet.breaker
        if not breaker.open:
            return
        if self.hub is None:
            while self.fleet.breaker.open:
                self._may_go_on()
                time.sleep(WITHOUT_LOOP)
            return
        tell_at = TELL_EVERY
        with internals.pool_only(self) as turn:
            while breaker.open:
                self._may_go_on()
                turn()
                self.fleet.look()
                if breaker.seconds >= tell_at:
                    tell_at += TELL_EVERY
                    logger.warning("the broker has not answered for %.0f s", breaker.seconds)

    def _may_go_on(self) -> None:
        # A drain notices its end by itself, and stops the worker (celery_fleet.worker.drain).
        worker_state.maybe_shutdown()

    def register_with_event_loop(self, hub: Any) -> None:
        """Resume what the pool was writing and reading. Celery calls this just before the loop starts."""
        super().register_with_event_loop(hub)
        internals.resume_pipes(self)
