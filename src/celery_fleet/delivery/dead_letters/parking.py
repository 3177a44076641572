"""A consumer that drops no messages: one that can't be run waits, or becomes a dead letter ("is parked").

Another worker, or the next release, may know a task that this worker does not know. Its message is held in
``unacked`` for a while, like one with an ETA, and then goes to the tail of its queue. After ``unknown_for`` seconds
in total it is parked. A message that no worker can ever run is parked at once. So is a task that has killed
:attr:`~celery_fleet.delivery.options.Options.deaths` processes.

A suspect, a task that may have killed workers, does not run beside another one. Its message waits in ``unacked`` for
:data:`OFFER` seconds at most and then goes back to the head of its queue, because another worker may have no suspect.

Everything runs in the loop's thread, except the results and signals of dead letters, which may take long. If Redis
refuses a command, the worker tries again later. Until then the message stays in ``unacked``, and it goes back with the
others if the connection is lost. Messages that are not in ``unacked`` (another broker, ``ack_emulation`` off,
``no_ack``) are handled as in stock Celery.

A task that failed for good is parked instead of acknowledged, if
:attr:`~celery_fleet.delivery.options.Options.failed` allows it.

Without dead letters a malformed message is dropped, as Celery drops an invalid one. In stock Celery some malformed
messages end the worker, which puts them back and fetches them again after its restart.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import signals

from celery_fleet.compat.mixin import Mixin
from celery_fleet.compat.pools import PREFORK, kind_of
from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.deaths import (
    Deaths,
    not_counted,
    would_run_beside_another,
)
from celery_fleet.delivery.dead_letters.failed import FailedTasks
from celery_fleet.delivery.dead_letters.letter_writer import LetterWriter
from celery_fleet.delivery.dead_letters.letters import (
    INVALID,
    MALFORMED,
    UNDECODABLE,
    described,
    misheaded,
    misshapen,
)
from celery_fleet.delivery.dead_letters.unknown import AROUND, UnknownTasks, clear_if_known
from celery_fleet.delivery.dead_letters.waiting import RETRY, Waiting, put_back
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.options import AT_LEAST_ONCE, Options
from celery_fleet.delivery.outage import sending
from celery_fleet.delivery.outage.give_back import give_back
from celery_fleet.delivery.scripts import HEAD

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds between two attempts to start a task that has to wait for another task, because both may have killed workers.
TURN = 0.5

#: Seconds after which such a task is offered to other workers. If a worker kept them, it would run one after another
#: while other workers have none.
OFFER = 5.0

#: Seconds after which a new connection consumes.
SOON = 1.0

#: Seconds that a stopping worker waits for the results and signals of dead letters.
FLUSH = 5.0


def install(app: Any, options: Options) -> None:
    """Make the app's worker survive malformed messages, with any consumer. Call this before it builds its blueprints.

    With dead letters it drops no messages. With at_least_once it retries a task if its process dies. It also puts a
    task back if a time limit stopped the task while it waited to send a message.
    """
    base = adapter.consumer_class(app)
    if issubclass(base, Parking):
        return
    app.conf.worker_consumer = type("ParkingConsumer", (Parking, base), {"delivery": options})


class Parking(Mixin):  # type: ignore[misc]  # see mixin
    """A mixin before Celery's Consumer; a subclass sets ``delivery``."""

    delivery: Options = Options()

    # Attributes of Celery's Consumer.
    app: Any
    hostname: str
    strategies: Mapping[str, Any]
    connection_errors: tuple[type[BaseException], ...]
    timer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._waiting = Waiting(self)
        #: Messages that Redis may have removed for this process, each with the Unix time when its connection closed.
        self._claimed: list[tuple[Any, float | None]] = []
        super().__init__(*args, **kwargs)
        self._writer = LetterWriter(self.delivery, self.hostname)
        self._unknown = UnknownTasks(self, self.delivery, self._writer, self._waiting)
        if self.delivery.dead_letters:
            HOOKS.park_raw = self._writer.park_raw
            signals.worker_shutdown.connect(
                lambda **_: self._writer.close(FLUSH),
                weak=False,
                dispatch_uid="celery_fleet.dead_letters",
            )

    # --- what Celery calls ---

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Handle a task with a name that this worker does not know."""
        if not self._ours(message):
            super().on_unknown_task(body, message, exc)
            return
        self._waiting.guarded(message, lambda: self._unknown.received(message, exc))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Handle a message that is not a task."""
        if not self._ours(message):
            super().on_unknown_message(body, message)
            return
        self.park(message, MALFORMED, "this is not the message of a task: its headers name none")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Handle a task with an invalid message."""
        if not self._ours(message):
            super().on_invalid_task(body, message, exc)
            return
        self.park(message, INVALID, described(exc), exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Handle a message with a body that can't be decoded."""
        if not self._ours(message):
            super().on_decode_error(message, exc)
            return
        self.park(message, UNDECODABLE, described(exc), exc)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return the handler of messages. With stock Celery's handler, some messages would end the worker."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            try:
                clear_if_known(message, self.strategies)
                if self._ours(message) and would_run_beside_another(message):
                    # Vary the time, as for tasks that this worker does not know.
                    until = time.monotonic() + OFFER * random.uniform(*AROUND)  # noqa: S311 (nothing secret)
                    self._wait_for_turn(message, on_task_received, until)
                    return None
                why = self._misshapen(message)
                if why is None:
                    return handle(message)
            except Exception as exc:
                lost = isinstance(exc, self.connection_errors) and not isinstance(exc, KeyError)
                # Celery ends the worker for a task's MemoryError.
                if lost or isinstance(exc, MemoryError) or adapter.begun(message, self):
                    raise
                self._malformed(message, described(exc), exc)
                return None
            self._malformed(message, why)
            return None

        return on_task_received

    def _wait_for_turn(self, message: Any, start: Callable[[Any], Any], until: float) -> None:
        """Start a suspect once no other one runs here; offer it to other workers at this time (monotonic)."""
        if not would_run_beside_another(message):
            start(message)
        elif time.monotonic() < until:
            self._waiting.hold(
                message, TURN, partial(self._wait_for_turn, start=start, until=until)
            )
        else:
            put_back(message, HEAD)

    def update_strategies(self) -> None:
        """Prepare each task. Celery calls this for each connection."""
        promised = self.delivery.profile == AT_LEAST_ONCE
        died: Callable[..., bool] = not_counted
        failed = None
        if self.delivery.dead_letters:
            died = Deaths(self.delivery, self._writer, self._waiting).count
            if self.delivery.failed:
                failed = FailedTasks(self, self.delivery, self._writer).failed
        # In other pools no task has a process of its own that could wait while it sends.
        waited = sending.was_waiting if kind_of(self.pool) == PREFORK else not_counted
        for task in self.app.tasks.values() if self.delivery.dead_letters or promised else ():
            adapter.use_request(task, died, waited, sending.was_cut_off, failed)
        super().update_strategies()
        if self._claimed:
            # There is no consumer on the new connection yet.
            self.timer.call_after(SOON, self._return_claimed, ())

    def on_close(self) -> None:
        """Forget the waiting messages, because the connection closes and kombu puts them back with the others."""
        now = time.time()
        self._claimed += [(message, now) for message in self._waiting.forget()]
        super().on_close()

    # --- for at_most_once ---

    def hold(self, message: Any, again: Callable[[], object]) -> None:
        """Hold a message that can't be acknowledged now, and call a function in a few seconds."""
        self._waiting.hold(message, RETRY, lambda _: again())

    def _return_claimed(self) -> None:
        """Put back messages that Redis has removed on an earlier connection, and that have not begun here."""
        claimed, self._claimed = self._claimed, []
        if not claimed:
            return
        try:
            answers = give_back(self, claimed)
        except Exception as exc:  # noqa: BLE001  # the messages must not be lost
            answers = [exc] * len(claimed)
        for one, answer in zip(claimed, answers, strict=True):
            if isinstance(answer, Exception):
                logger.warning(
                    "a message that this worker has not begun can't be put back now (%s): the next attempt is in"
                    " %.0f s",
                    described(answer),
                    RETRY,
                )
                self._claimed.append(one)
        if self._claimed:
            self.timer.call_after(RETRY, self._return_claimed, ())

    # --- for a drain ---

    def take_held(self) -> list[Any]:
        """Return the messages that wait here. The caller must put them back."""
        return self._waiting.take()

    # --- parking ---

    def park(
        self, message: Any, reason: str, detail: str, exc: BaseException | None = None
    ) -> None:
        """Turn a message into a dead letter, now or as soon as Redis accepts it."""

        def after() -> None:
            adapter.rejected(self, message, exc)

        action = partial(self._writer.park, reason=reason, detail=detail, after=after)
        self._waiting.attempt(message, action)

    def _malformed(self, message: Any, detail: str, exc: BaseException | None = None) -> None:
        """Park a message that no worker can ever run; without dead letters, drop it."""
        if self._ours(message):
            self.park(message, MALFORMED, detail, exc)
            return
        identifier, task = dead_letters.identity(adapter.raw(message))
        logger.error("malformed message of task %s[%s] dropped: %s", task, identifier, detail)
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)
        adapter.rejected(self, message, exc)

    def _ours(self, message: Any) -> bool:
        return self.delivery.dead_letters and adapter.in_unacked(message)

    def _misshapen(self, message: Any) -> str | None:
        """Return why no task can be called with a message; None if one can, or if Celery itself refuses it."""
        try:
            payload = message.payload
        except Exception:  # noqa: BLE001  # the strategy decodes it as well, and handles each kind of error
            return None
        # The headers of protocol 2 are in the body of protocol 1.
        second = "task" in message.headers
        said = message.headers if second else payload
        if not isinstance(said, Mapping) or said.get("task") not in self.strategies:
            return None
        return misheaded(said) or (misshapen(payload) if second else None)
