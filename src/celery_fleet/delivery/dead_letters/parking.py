"""A consumer that drops nothing: what can't be run waits, or becomes a dead letter.

A task that this worker does not know may be known by another one, or by the next release. Its message is held in
``unacked`` for a while, as one with an ETA is, and then goes to the far end of its queue; after
``unknown_for`` altogether it is parked. What no worker can ever run is parked at once, and so is a task of which
:attr:`~celery_fleet.delivery.options.Options.deaths` processes have died.

All of it happens on the loop's thread, but for results and signals of what was parked, which may take as long as
they like. What Redis does not take is tried again; until then the message stays in ``unacked``, and goes back with
the rest where the connection is lost. Where messages are in no ``unacked`` (another broker, ``ack_emulation`` off,
``no_ack``), all is as in stock Celery.

A task that failed for good is parked in place of its acknowledgement, if
:attr:`~celery_fleet.delivery.options.Options.failed` says so.

Without dead letters a malformed message is dropped, as Celery drops an invalid one. Stock Celery lets some of them end
the worker, which puts them back and takes them again after its restart.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import signals

from celery_fleet.common import text as words
from celery_fleet.compat.mixin import Mixin
from celery_fleet.compat.queues import list_of
from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import internals as adapter
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.dead_letters.after_parking import Aside, park_raw, tell
from celery_fleet.delivery.dead_letters.letters import (
    FAILED,
    INVALID,
    MALFORMED,
    POISON,
    UNDECODABLE,
    UNKNOWN,
    described,
    misheaded,
    misshapen,
)
from celery_fleet.delivery.dead_letters.store import COUNT
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.options import AT_LEAST_ONCE, Options
from celery_fleet.delivery.outage import sending
from celery_fleet.delivery.scripts import REQUEUE

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds until what Redis did not take is tried again.
RETRY = 5.0

#: Seconds until a suspect that has to wait for another one asks again.
TURN = 0.5

#: What a message's time in a worker's hands lies between, as parts of ``unknown_delay``.
AROUND = (0.75, 1.25)

#: Seconds that a worker which ends gives results and signals of what was parked.
FLUSH = 5.0

#: Messages held beyond the prefetch at once. With more, the worker takes no further ones until some have gone
#: back: a queue full of unknown tasks must not end up in its memory.
MOST_HELD = 1000


@dataclass
class Held:
    """A message that waits in ``unacked``, and what will become of it."""

    message: Any
    action: Callable[[Any], object]
    #: Whether the prefetch was raised for it.
    raised: bool
    entry: Any = None


def install(app: Any, options: Options) -> None:
    """Have the app's worker survive malformed messages, whatever consumer it has; before it builds its blueprints.

    With dead letters it drops nothing. With at_least_once it retries tasks whose process died, and puts back what a
    time limit kept from sending.
    """
    base = adapter.consumer_class(app)
    if issubclass(base, Parking):
        return
    app.conf.worker_consumer = type("ParkingConsumer", (Parking, base), {"delivery": options})


def _not_counted(*_: Any) -> bool:
    """A task's process died, and there are no dead letters."""
    return False


def _is_suspect(message: Any) -> bool:
    """Return whether a task ran at several deaths of a worker, so that it runs beside no other suspect."""
    return dead_letters.header(adapter.raw(message), keys.CRASHES) >= keys.SUSPECT


class Parking(Mixin):  # type: ignore[misc]  # see mixin
    """Mixin before Celery's Consumer; ``delivery`` is to be set by whoever makes the class."""

    delivery: Options = Options()

    # Celery's Consumer has these.
    app: Any
    hostname: str
    timer: Any
    qos: Any
    strategies: Mapping[str, Any]
    connection_errors: tuple[type[BaseException], ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._letters: dict[str, Held] = {}
        self._aside = Aside()
        self._offset: float | None = None
        super().__init__(*args, **kwargs)
        if self.delivery.dead_letters:
            HOOKS.park_raw = park_raw(self.delivery, self.hostname)
            signals.worker_shutdown.connect(
                lambda **_: self._aside.flush(FLUSH),
                weak=False,
                dispatch_uid="celery_fleet.dead_letters",
            )

    # --- what Celery calls ---

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task whose name is not known here."""
        if not self._ours(message):
            super().on_unknown_task(body, message, exc)
            return
        self._guarded(message, lambda: self._unknown(message, exc))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that is no task."""
        if not self._ours(message):
            super().on_unknown_message(body, message)
            return
        self.park(message, MALFORMED, "this is no message of a task: its headers name none")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task whose message is not as it has to be."""
        if not self._ours(message):
            super().on_invalid_task(body, message, exc)
            return
        self.park(message, INVALID, described(exc), exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A message whose body can't be decoded."""
        if not self._ours(message):
            super().on_decode_error(message, exc)
            return
        self.park(message, UNDECODABLE, described(exc), exc)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """What takes each message; stock Celery's lets some of them end the worker."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            try:
                self._known(message)
                if self._has_to_wait(message):
                    self._hold(message, TURN, on_task_received)
                    return None
                why = self._misshapen(message)
                if why is None:
                    return handle(message)
            except Exception as exc:
                lost = isinstance(exc, self.connection_errors) and not isinstance(exc, KeyError)
                # Celery ends the worker by a task's MemoryError.
                if lost or isinstance(exc, MemoryError) or adapter.begun(message, self):
                    raise
                self._malformed(message, described(exc), exc)
                return None
            self._malformed(message, why)
            return None

        return on_task_received

    def update_strategies(self) -> None:
        """Make each task's way through the worker, as at each connection."""
        promised = self.delivery.profile == AT_LEAST_ONCE
        died = self._died if self.delivery.dead_letters else _not_counted
        failed = self._failed if self.delivery.dead_letters and self.delivery.failed else None
        for task in self.app.tasks.values() if self.delivery.dead_letters or promised else ():
            adapter.use_request(task, died, sending.was_waiting, sending.was_cut_off, failed)
        super().update_strategies()

    def on_close(self) -> None:
        """The connection goes: what it held is put back by kombu, with all the rest."""
        for held in list(self._letters.values()):
            self._let_go(held, decrement=False)
        super().on_close()

    # --- for a drain ---

    def take_held(self) -> list[Any]:
        """The messages that wait here, which are the caller's from now on: it puts them back."""
        messages = []
        for held in list(self._letters.values()):
            self._let_go(held)
            if adapter.in_unacked(held.message):
                messages.append(held.message)
        return messages

    # --- parking ---

    def park(
        self, message: Any, reason: str, detail: str, exc: BaseException | None = None
    ) -> None:
        """Make it a dead letter, now or as soon as Redis takes it."""

        def after() -> None:
            adapter.rejected(self, message, exc)

        action = partial(self._park, reason=reason, detail=detail, after=after)
        self._attempt(message, action)

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

    def _park(
        self,
        message: Any,
        reason: str,
        detail: str,
        after: Callable[[], object] | None = None,
        since: float | None = None,
        tag: str | None = None,
    ) -> None:
        channel = message.channel
        where = adapter.places(channel)
        key = list_of(message)
        item = adapter.item_of(message)
        names, arguments = dead_letters.park_call(
            item,
            key,
            reason,
            detail,
            self.hostname,
            keep=self.delivery.keep,
            tag=message.delivery_tag if tag is None else tag,
            since=since,
            places=where,
        )
        with adapter.client(channel) as client:
            parked = dead_letters.park(client, names, arguments, where.prefix)
        if adapter.in_unacked(message):
            adapter.forget(message)
        _, task = dead_letters.identity(adapter.raw(message))
        tell(parked, task, dead_letters.queue_of(key), reason, detail, self.delivery.keep)
        if parked.done and after is not None:
            self._aside.do(after)

    # --- unknown tasks ---

    def _unknown(self, message: Any, exc: Exception) -> None:
        raw = adapter.raw(message)
        identifier, task = dead_letters.identity(raw)
        count = int(dead_letters.header(raw, keys.UNKNOWN)) + 1
        since = dead_letters.header(raw, keys.UNKNOWN_SINCE) or self._now(message)
        adapter.set_header(message, keys.UNKNOWN, count)
        adapter.set_header(message, keys.UNKNOWN_SINCE, round(since, 3))
        left = max(0.0, since + self.delivery.unknown_for - self._now(message))
        # Each time another while: whoever asks in a fixed rhythm would take it back over and over, before those who
        # know it (seen with BRPOP, which serves who has waited longest).
        around = self.delivery.unknown_delay * random.uniform(*AROUND)  # noqa: S311 (nothing secret)
        seconds = min(around, adapter.longest_hold(message))
        logger.log(
            logging.WARNING if count == 1 else logging.INFO,
            "task %s[%s] is not known to this worker: it goes back to the end of %s in %.0f s, for others or"
            " another release; in %.0f s it becomes a dead letter",
            task,
            identifier,
            dead_letters.queue_of(list_of(message)),
            min(seconds, left),
            left,
        )
        self._hold(message, min(seconds, left), partial(self._offer, exc=exc, since=since))

    def _offer(self, message: Any, exc: Exception, since: float) -> None:
        """Put it back into its queue, or park it if it was there for long enough."""
        raw = adapter.raw(message)
        if self._now(message) - since >= self.delivery.unknown_for:
            identifier, task = dead_letters.identity(raw)
            about = {"id": identifier, "task": task}
            times = words.count(int(dead_letters.header(raw, keys.UNKNOWN)), "time")
            detail = (
                f"no worker that took it knows this task: it was taken {times} within"
                f" {self._now(message) - since:.0f} s"
            )
            after = partial(adapter.fail_unknown, self, message, exc, about)
            self._park(message, UNKNOWN, detail, after, since=since)
            return
        channel = message.channel
        where = adapter.places(channel)
        # To the far end of its queue, so that the others come first.
        names = [where.unacked, where.unacked_index, list_of(message)]
        arguments = [message.delivery_tag, adapter.item_of(message)]
        with adapter.client(channel) as client:
            dead_letters.evaluate(client, REQUEUE.text, names, arguments, prefix=where.prefix)
        adapter.forget(message)

    def _now(self, message: Any) -> float:
        """Redis' clock, as far as it is known; that of a host may be wrong."""
        if self._offset is None:
            try:
                with adapter.client(message.channel) as client:
                    seconds, micro = client.time()
                self._offset = int(seconds) + int(micro) / 1e6 - time.monotonic()
            except Exception:  # noqa: BLE001  # then the host's own has to do
                return time.time()
        return time.monotonic() + self._offset

    # --- poison ---

    def _died(self, request: Any, exc: BaseException, exc_info: Any) -> bool:
        try:
            return self._dead(request, exc, exc_info)
        except Exception:
            logger.exception("the death of a task's process could not be counted")
            return False

    def _dead(self, request: Any, exc: BaseException, exc_info: Any) -> bool:
        message = request.message
        deaths = round(dead_letters.header(adapter.raw(message), keys.DEATHS) + 1, 3)
        adapter.set_header(message, keys.DEATHS, deaths)
        adapter.carry_header(request, keys.DEATHS, deaths)
        held = not request.acknowledged and adapter.in_unacked(message)
        if deaths < self.delivery.deaths or not (held or request.acknowledged):
            if held:
                self._note(message, deaths)
            return False
        if adapter.succeeded(request):
            return False
        detail = described(f"{deaths:g} processes died of it; the last: {exc}")
        after = partial(adapter.fail, request, type(exc)(f"{detail}: dead letter"), exc_info)
        # One that was acknowledged before it ran is nowhere else.
        tag = None if held else ""
        action = partial(self._park, reason=POISON, detail=detail, after=after, tag=tag)
        adapter.taken_over(request)
        if held:
            self._attempt(message, action)
        else:
            action(message)
        return True

    # --- tasks that failed for good ---

    def _failed(self, request: Any, exc: BaseException) -> None:
        adapter.instead_of_ack(request.message, partial(self._keep_failed, exc=exc))

    def _keep_failed(self, message: Any, exc: BaseException) -> bool:
        """Make the message of a failed task a dead letter; return False where it has to be acknowledged.

        Others are not pushed out for it: they have not run at all.
        """
        channel = message.channel
        identifier, task = dead_letters.identity(adapter.raw(message))
        try:
            if not adapter.in_unacked(message):
                raise ConnectionError("the connection is lost")
            with adapter.client(channel) as client:
                number = int(dead_letters.evaluate(client, COUNT, [keys.DEAD_LETTERS_INDEX], []))
            if number >= self.delivery.failed:
                logger.error(
                    "failed task %s[%s] is not kept: there are %d dead letters (celery_worker_failed_keep)",
                    task,
                    identifier,
                    number,
                )
                return False
            self._park(message, FAILED, described(exc))
        except Exception as error:  # noqa: BLE001  # it has failed, and its end is not that of the worker
            away = sending.is_away(error)
            logger.error(
                "failed task %s[%s] can't be kept (%s): %s",
                task,
                identifier,
                described(error),
                "it runs again" if away else "it is acknowledged",
            )
            if away:
                message.reject_log_error(logger, self.connection_errors, requeue=True)
            return away
        return True

    def _note(self, message: Any, deaths: float) -> None:
        """Have whoever takes it next know of the death, too."""
        channel, tag = message.channel, message.delivery_tag
        value = adapter.noted(channel, tag, keys.DEATHS, deaths)
        if value is None:
            return
        with adapter.client(channel) as client:
            dead_letters.evaluate(client, dead_letters.NOTE, [channel.unacked_key], [tag, value])

    def _has_to_wait(self, message: Any) -> bool:
        """Return whether a task that may be the one that kills workers would run beside another such task."""
        return (
            self._ours(message)
            and _is_suspect(message)
            and any(_is_suspect(other) for other in adapter.messages_at_work())
        )

    # --- holding ---

    def _ours(self, message: Any) -> bool:
        return self.delivery.dead_letters and adapter.in_unacked(message)

    def _misshapen(self, message: Any) -> str | None:
        """Why no task can be called with such a message; what Celery itself refuses is left to it."""
        try:
            payload = message.payload
        except Exception:  # noqa: BLE001  # the strategy decodes it as well, and its errors are told apart
            return None
        # In protocol 1 the body says what headers say in protocol 2.
        second = "task" in message.headers
        said = message.headers if second else payload
        if not isinstance(said, Mapping) or said.get("task") not in self.strategies:
            return None
        return misheaded(said) or (misshapen(payload) if second else None)

    def _known(self, message: Any) -> None:
        """Forget that a task was unknown once it is not: its retries would carry that with them."""
        headers = message.headers
        if keys.UNKNOWN in headers and headers.get("task") in self.strategies:
            for name in (keys.UNKNOWN, keys.UNKNOWN_SINCE):
                headers.pop(name, None)

    def _guarded(self, message: Any, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception:
            logger.exception("a message that can't be run stays in unacked for now")
            self._hold(message, RETRY, lambda _: action())

    def _attempt(self, message: Any, action: Callable[[Any], object]) -> None:
        """Do it now; what fails is tried again, and holds the message meanwhile."""
        try:
            action(message)
        except Exception as exc:  # noqa: BLE001  # whatever Redis has against it, the message must not be lost
            logger.warning(
                "a message that can't be run can't be parked now (%s): it stays in unacked and is tried again"
                " in %.0f s",
                described(exc),
                RETRY,
            )
            self._hold(message, RETRY, action)

    def _hold(self, message: Any, seconds: float, action: Callable[[Any], object]) -> None:
        raised = len(self._letters) < MOST_HELD
        if raised:
            self.qos.increment_eventually()
        held = Held(message, action, raised)
        self._letters[message.delivery_tag] = held
        held.entry = self.timer.call_after(seconds, self._due, (held,))

    def _let_go(self, held: Held, decrement: bool = True) -> None:
        self._letters.pop(held.message.delivery_tag, None)
        if held.entry is not None:
            self.timer.cancel(held.entry)
        if decrement and held.raised:
            self.qos.decrement_eventually()

    def _due(self, held: Held) -> None:
        if self._letters.get(held.message.delivery_tag) is not held:
            return
        self._letters.pop(held.message.delivery_tag)
        if not adapter.is_open(held.message.channel) or not adapter.in_unacked(held.message):
            return
        if held.raised:
            self.qos.decrement_eventually()
        self._attempt(held.message, held.action)
