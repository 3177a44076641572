"""Drains and pauses a worker: it stops fetching, returns what has not started, and waits for the rest.

It is a single file because it is one state machine: each part reads and changes the state of the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from celery_fleet.common.errors import error_text
from celery_fleet.common.text import tasks_wait
from celery_fleet.compat import intake, queues, worker
from celery_fleet.delivery.outage import give_back
from celery_fleet.worker.drain_record import DrainProgress, DrainRecord

logger = logging.getLogger("celery_fleet.drain")


#: Seconds between two checks of what still runs.
TICK = 0.05

#: Seconds between two attempts to hand back messages that the broker refused.
RETRY = 1.0

#: Seconds that a draining worker waits for its lost broker if its loop is blocked by that, or for the broker
#: to accept messages after the last task has ended. Then it stops in Celery's own way, which needs neither.
#: Otherwise a drain could not end before the broker is back, or never if it refuses a message for good.
WITHOUT_BROKER = 30.0

#: Seconds that a draining worker without running tasks waits for a lost broker to accept messages.
PATIENCE = 3.0

#: Seconds without a tick after which a loop without a broker counts as blocked.
STILL = 1.0

#: Longest pause in seconds that one command can request.
LONGEST_PAUSE = 3600.0


class Mode(Enum):
    """Whether the worker fetches tasks."""

    CONSUMING = "consuming"
    PAUSED = "paused"
    DRAINING = "draining"


@dataclass(frozen=True)
class DrainStatus:
    """A worker's drain status; the replies to remote control are made from it."""

    mode: Mode = Mode.CONSUMING
    #: Seconds until a pause ends by itself.
    seconds: float = 0.0
    running: int = 0
    unacked: int = 0
    handed_back: int = 0
    #: Messages to be handed back that the broker has not accepted yet.
    held: int = 0
    #: A poll for messages is pending; messages that it brings are handed back.
    polling: bool = False
    #: The queues from which nothing is fetched until an operator resumes them.
    paused: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the public form."""
        rest = asdict(self)
        rest["state"] = rest.pop("mode").value
        rest["seconds"] = round(self.seconds, 1)
        return rest


class Drainer:
    """Decides whether the worker fetches tasks. One exists for a worker's whole life, through all connections."""

    def __init__(self, record: DrainRecord, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._mode = Mode.CONSUMING
        self._consumer: Any = None
        self._reopen: Callable[[], None] | None = None
        self._pool: Any = None
        self._timer: Any = None  # Celery's timer, which outlives a connection
        self._waker: intake.LoopWaker | None = None
        self._stop_ticking: Callable[[], None] | None = None
        #: Messages that only this object holds, oldest first, each with the time of its first failed attempt.
        self._held: list[tuple[Any, float | None]] = []
        #: How many of them are being handed back right now; with gevent other greenlets run meanwhile.
        self._under_way = 0
        self._retry_at = float("-inf")
        self._handed_back = 0
        self._called = False
        self._paused: frozenset[str] = frozenset()
        #: Whether nothing may be fetched from a queue; `Pausing` decides that.
        self.is_paused: Callable[[str], bool] = lambda _: False
        #: Called to poll other queues than before; None without a connection.
        self._choose_queues: Callable[[], None] | None = None
        #: Called to handle a signal that came while there was no loop to hear it.
        self.heard: Callable[[], object] | None = None
        #: Since when there is no broker (None if there is one), and when the loop last ticked without one.
        self._away_since: float | None = None
        self._alone_at = float("-inf")
        self._drains = False
        self._began = 0.0
        self._busy_at = 0.0
        self._until = 0.0
        self._load = intake.Load(0, 0, polling=False)
        self._trouble: str | None = None
        self._without_broker: threading.Timer | None = None

    # --- for any thread ---

    @property
    def status(self) -> DrainStatus:
        """Return the worker's current drain status; may be called in any thread."""
        return DrainStatus(
            mode=self._mode,
            seconds=max(0.0, self._until - self._clock()) if self._mode is Mode.PAUSED else 0.0,
            running=self._load.running,
            unacked=self._load.unacked,
            handed_back=self._handed_back,
            held=len(self._held) + self._under_way,
            polling=self._load.polling,
            paused=tuple(sorted(self._paused)),
        )

    # --- the connection ---

    def connected(self, consumer: Any) -> None:
        """Handle a new connection that does not consume yet."""
        if self._without_broker is not None:
            self._without_broker.cancel()
            self._without_broker = None
        self._tick_no_more()
        self._away_since = None
        self._consumer, self._pool = consumer, consumer.pool
        self._drains = worker.why_not_drained(consumer) is None
        queues.note_queues(consumer, self.is_paused, self._arrived)
        self._choose_queues = queues.skip_queues(consumer, self.is_paused)
        intake.pool_intake(consumer).connect()
        intake.keep_buckets(consumer)
        if consumer.hub is None and self._drains:
            self._waker = self._waker or intake.LoopWaker()
            self._waker.connect(consumer)
        if self._mode is Mode.PAUSED and self._clock() >= self._until:
            self._ended("while it had no broker")
        if self._mode is not Mode.CONSUMING or self._held:
            self._shut()

    def disconnected(self) -> None:
        """Handle a lost connection, or the end of the worker."""
        consumer, self._consumer = self._consumer, None
        self._reopen = self._choose_queues = None
        self._tick_no_more()
        if worker.told_to_stop():
            self._retry_at = float("-inf")
            self._guarded(lambda: self._hand_back(consumer))
            self._tell_of_the_rest()
            return
        # Each failed attempt to connect comes here as well.
        if self._away_since is None:
            self._away_since = self._clock()
        if consumer is not None:
            self._timer = consumer.timer
        if self._drains:
            self._stop_ticking = intake.repeat(self._timer, TICK, self._tick_alone)
        if (self._mode is Mode.DRAINING or self._called) and self._without_broker is None:
            self._await_broker()

    def _await_broker(self) -> None:
        self._without_broker = threading.Timer(WITHOUT_BROKER, self._broker_stayed_away)
        self._without_broker.daemon = True
        self._without_broker.start()

    def _broker_stayed_away(self) -> None:
        if self._lives_alone:
            self._await_broker()
        else:
            self._give_up()

    def _give_up(self) -> None:
        self._tell_of_the_rest()
        self._stop_worker()

    def _stop_worker(self) -> None:
        worker.stop_worker()
        self._wake_loop()

    def _wake_loop(self) -> None:
        if self._waker is not None:
            self._waker()

    def _tell_of_the_rest(self) -> None:
        if self._held:
            logger.error(
                "%d tasks could not be handed back (%s): they stay in unacked until the unit's hand-back or the"
                " visibility timeout returns them",
                len(self._held),
                self._trouble,
            )

    def called(self) -> None:
        """Prepare for a drain that is about to be requested; safe in a signal handler."""
        self._called = True
        if self._pool is not None:
            intake.shut(self._pool)

    @property
    def is_ending(self) -> bool:
        """Return whether a drain was requested, even if it could not start yet."""
        return self._called or self._mode is Mode.DRAINING

    @property
    def can_drain(self) -> bool:
        """Return whether the worker can be drained: its connection allows it, or its loop runs without one."""
        if self._consumer is None:
            return self._drains and self._lives_alone
        return worker.why_not_drained(self._consumer) is None

    @property
    def _lives_alone(self) -> bool:
        return self._away_since is not None and self._clock() - self._alone_at < STILL

    # --- what is asked for ---

    def drain(self) -> None:
        """Hand back tasks, let running ones end, then stop; a second call does nothing."""
        if self._mode is Mode.DRAINING:
            return
        self._mode = Mode.DRAINING
        self._handed_back = 0
        self._began = self._busy_at = self._clock()
        self._shut()
        took = (self._clock() - self._began) * 1000
        logger.info(
            "drain: %d tasks running, %d handed back within %.1f ms",
            self._load.running,
            self._handed_back,
            took,
        )

    def pause(self, seconds: float) -> DrainStatus:
        """Hand back tasks and fetch none for some seconds from now; this replaces the end of an earlier pause."""
        # With gevent a tick may come while tasks are handed back, so set its end first.
        self._until = self._clock() + seconds
        if self._mode is Mode.CONSUMING:
            self._mode = Mode.PAUSED
            self._handed_back = 0
            self._shut()
            logger.info("paused for %.0f s, %d handed back", seconds, self._handed_back)
        return self.look()

    def resume(self) -> DrainStatus:
        """End a pause; this does nothing without one and can't end a drain."""
        if self._mode is Mode.PAUSED:
            self._ended("on request")
        return self.look()

    def pause_queues(self, names: frozenset[str]) -> None:
        """Fetch nothing from these queues, and from all others again; only for the loop's thread.

        What has not started is handed back, also that of other queues, from which it is fetched again at once.
        """
        before, self._paused = self._paused, names
        if self._choose_queues is None or names == before:
            return
        self._choose_queues()
        if names - before and self._mode is Mode.CONSUMING:
            self._handed_back = 0
            if not self._guarded(self._hand_back_waiting):
                self._stop_worker()  # see _shut
        self._wake_loop()

    def look(self) -> DrainStatus:
        """Return an updated drain status; only for the loop's thread."""
        if self._consumer is not None:
            self._load = intake.load(self._consumer)
            if self._load.busy:
                self._busy_at = self._clock()
        return self.status

    def _ended(self, why: str) -> None:
        self._mode = Mode.CONSUMING
        if self._reopen is not None:
            self._reopen()
            self._reopen = None
            self._wake_loop()
        logger.info("the pause has ended %s", why)

    # --- on the loop ---

    def _guarded(self, action: Callable[[], object]) -> bool:
        """Run the action, and log an exception, which would otherwise end the worker."""
        try:
            action()
        except Exception:
            logger.exception("the worker's tasks can't be handed back")
            return False
        return True

    def _shut(self) -> None:
        if not self._guarded(lambda: self._take_back(self._consumer)):
            # Messages that neither Celery nor this object holds are put back when the channel closes.
            self._stop_worker()
        self._wake_loop()

    def _take_back(self, consumer: Any) -> None:
        if (
            consumer is None
        ):  # kombu has put back messages that had not started, or leaves them in unacked
            intake.drop_waiting(self._pool)
            self._look_alone()
            return
        if self._mode is not Mode.CONSUMING:
            if self._reopen is None:
                self._reopen = intake.stop_taking(consumer, self._arrived)
            self._hand_back_waiting()
        else:
            self._tick_more()
            self._hand_back(consumer)
            self._write_down()

    def _hand_back_waiting(self) -> None:
        """Hand back all tasks that have not started."""
        self._tick_more()
        self._held += [(message, None) for message in intake.take_out(self._consumer)]
        self._hand_back(self._consumer)
        self._write_down()

    def _tick_more(self) -> None:
        if self._stop_ticking is None:
            self._stop_ticking = intake.repeat(self._consumer.timer, TICK, self._tick)

    def _tick_no_more(self) -> None:
        if self._stop_ticking is not None:
            self._stop_ticking()
            self._stop_ticking = None

    def _arrived(self, message: Any) -> None:
        """Handle a message from a poll that was already pending."""
        intake.disown(self._consumer, message)
        self._held.append((message, None))
        self._tick_more()
        self._guarded(lambda: self._hand_back(self._consumer))

    def _hand_back(self, consumer: Any) -> None:
        if self._under_way or not self._held or consumer is None:
            return
        if self._clock() < self._retry_at:
            return
        now, began = time.time(), self._clock()
        held, self._held = self._held, []
        self._under_way = len(held)
        try:
            answers = give_back.give_back(consumer, held)
        except Exception as exc:  # noqa: BLE001  # no message must be lost, even after an unknown error
            answers = [exc] * len(held)
        except BaseException:  # a killed greenlet, or a worker that is told to exit
            self._held, self._under_way = held + self._held, 0
            raise
        kept: list[tuple[Any, float | None]] = []
        trouble = None
        for (message, tried), answer in zip(held, answers, strict=True):
            if isinstance(answer, Exception):
                trouble = error_text(answer)
                kept.append((message, now if tried is None else tried))
            else:
                self._handed_back += answer
        self._held, self._under_way = kept + self._held, 0
        # A broker that hangs blocks the loop for its timeout; give the loop time in between.
        pause = max(RETRY, 2 * (self._clock() - began))
        self._retry_at = self._clock() + pause if kept else float("-inf")
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble is not None:
                logger.warning("%s to be handed back: %s", tasks_wait(len(kept)), trouble)

    def _tick(self) -> None:
        # Celery's own stop runs the timers in another thread.
        if self._consumer is not None and not worker.told_to_stop():
            self._guarded(lambda: self._next(self._consumer))

    def _next(self, consumer: Any) -> None:
        self._hand_back(consumer)
        self._write_down()
        if self._mode is Mode.PAUSED and self._clock() >= self._until:
            self._ended("by itself")
        if self._mode is Mode.CONSUMING and not self._held and not self._under_way:
            self._tick_no_more()
        elif self._mode is Mode.DRAINING and self._is_over():
            logger.info("drain: ended after %.1f s", self._clock() - self._began)
            self._stop_worker()

    def _tick_alone(self) -> None:
        if self._consumer is None and not worker.told_to_stop():
            self._guarded(self._next_alone)

    def _next_alone(self) -> None:
        self._alone_at = self._clock()
        self._look_alone()
        if self._called and self._mode is not Mode.DRAINING and self.heard is not None:
            self.heard()
        if self._mode is Mode.DRAINING and self._is_over():
            logger.info("drain: ended after %.1f s without a broker", self._clock() - self._began)
            self._give_up()

    def _look_alone(self) -> None:
        """Count running tasks only; the rest is unknown without a connection."""
        self._load = intake.Load(intake.at_work(self._pool), 0, polling=False)
        if self._load.busy:
            self._busy_at = self._clock()
        self._note()

    def _is_over(self) -> bool:
        if self._load.busy or self._under_way:
            return False
        if self._away_since is not None:
            since = max(self._busy_at, self._away_since)
            return not self._held or self._clock() - since >= PATIENCE
        return not self._held or self._clock() - self._busy_at >= WITHOUT_BROKER

    def _write_down(self) -> None:
        self.look()
        self._note()

    def _note(self) -> None:
        # Messages that are being handed back count as neither; with gevent, other greenlets come here meanwhile.
        if self._mode is Mode.DRAINING and not self._under_way:
            progress = DrainProgress(self._handed_back, self._load.running, ended=self._is_over())
            self._record.write(progress, self._clock() - self._began)
