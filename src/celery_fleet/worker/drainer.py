"""Drains and pauses a worker: it stops fetching, returns what has not started, and waits for the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from celery_fleet.common.errors import one_line
from celery_fleet.common.redact import redact
from celery_fleet.compat import intake, queues, worker
from celery_fleet.compat.pools import Nudge
from celery_fleet.delivery.outage import give_back
from celery_fleet.worker.drain_record import Progress, Record

logger = logging.getLogger("celery_fleet.drain")


#: Seconds between two looks at what still runs.
TICK = 0.05

#: Seconds between two attempts to hand back what the broker did not take.
RETRY = 1.0

#: Seconds that a draining worker looks for its lost broker while its loop stands still over that, or tries
#: to hand back once nothing runs any more. Then it stops as Celery does, which needs neither: else a drain
#: could not end before the broker is back, or never where it refuses a message for good.
WITHOUT_BROKER = 30.0

#: Seconds that a draining worker whose tasks have ended waits for a lost broker to take messages back.
PATIENCE = 3.0

#: Seconds without a tick after which a loop without a broker counts as standing still.
STILL = 1.0

#: Longest pause in seconds that one command can ask for.
LONGEST_PAUSE = 3600.0


class Mode(Enum):
    """Whether the worker takes tasks."""

    CONSUMING = "consuming"
    PAUSED = "paused"
    DRAINING = "draining"


@dataclass(frozen=True)
class Standing:
    """What a worker tells of itself; the replies to remote control are made of it."""

    mode: Mode = Mode.CONSUMING
    #: Seconds until a pause ends by itself.
    seconds: float = 0.0
    running: int = 0
    unacked: int = 0
    handed_back: int = 0
    #: Messages that are to be handed back and that the broker has not taken yet.
    held: int = 0
    #: A question for messages is under way; what it brings is handed back.
    polling: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The public form."""
        rest = asdict(self)
        rest["state"] = rest.pop("mode").value
        rest["seconds"] = round(self.seconds, 1)
        return rest


class Drainer:
    """Stops and resumes the taking of tasks: one object for a worker's life, through all of its connections."""

    def __init__(self, record: Record, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._mode = Mode.CONSUMING
        self._consumer: Any = None
        self._reopen: Callable[[], None] | None = None
        self._pool: Any = None
        self._timer: Any = None  # Celery's, which outlives a connection
        self._nudge: Nudge | None = None
        self._stop_ticking: Callable[[], None] | None = None
        #: Messages that are nobody's but ours, oldest first; the time of a first vain attempt.
        self._held: list[tuple[Any, float | None]] = []
        #: Those of them that are on their way back: in a pool of greenlets others run meanwhile.
        self._under_way = 0
        self._retry_at = float("-inf")
        self._handed_back = 0
        self._called = False
        #: Has heard what was called for while there was no loop to hear it.
        self.heard: Callable[[], object] | None = None
        #: Since when there is no broker, and when the loop last ticked without one.
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
    def standing(self) -> Standing:
        """What the worker does about new tasks."""
        return Standing(
            mode=self._mode,
            seconds=max(0.0, self._until - self._clock()) if self._mode is Mode.PAUSED else 0.0,
            running=self._load.running,
            unacked=self._load.unacked,
            handed_back=self._handed_back,
            held=len(self._held) + self._under_way,
            polling=self._load.polling,
        )

    # --- the connection ---

    def connected(self, consumer: Any) -> None:
        """A connection is up and does not consume yet."""
        if self._without_broker is not None:
            self._without_broker.cancel()
            self._without_broker = None
        self._tick_no_more()
        self._away_since = None
        self._consumer, self._pool = consumer, consumer.pool
        self._drains = worker.why_not_drained(consumer) is None
        queues.note_queues(consumer)
        intake.door(consumer)
        if consumer.hub is None and self._drains:
            self._nudge = self._nudge or Nudge()
            self._nudge.connect(consumer)
        if self._mode is Mode.PAUSED and self._clock() >= self._until:
            self._ended("while it had no broker")
        if self._mode is not Mode.CONSUMING or self._held:
            self._shut()

    def disconnected(self) -> None:
        """The connection is lost, or the worker ends."""
        consumer, self._consumer = self._consumer, None
        self._reopen = None
        self._tick_no_more()
        if worker.told_to_stop():
            self._retry_at = float("-inf")
            self._guarded(lambda: self._hand_back(consumer))
            self._tell_of_the_rest()
            return
        # Each vain attempt to connect ends here as well.
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
        if self._nudge is not None:
            self._nudge()

    def _tell_of_the_rest(self) -> None:
        if self._held:
            logger.error(
                "%d tasks could not be handed back (%s): they stay in unacked and come again by the unit's"
                " hand-back or after the visibility timeout",
                len(self._held),
                self._trouble,
            )

    def called(self) -> None:
        """A drain is about to be asked for; safe in a signal's handler."""
        self._called = True
        if self._pool is not None:
            intake.shut(self._pool)

    @property
    def is_ending(self) -> bool:
        """Whether a drain was asked for, be it that it could not begin yet."""
        return self._called or self._mode is Mode.DRAINING

    @property
    def can_drain(self) -> bool:
        """Whether there is a connection whose worker can be drained, or a loop that goes on without one."""
        if self._consumer is None:
            return self._drains and self._lives_alone
        return worker.why_not_drained(self._consumer) is None

    @property
    def _lives_alone(self) -> bool:
        return self._away_since is not None and self._clock() - self._alone_at < STILL

    # --- what is asked for ---

    def drain(self) -> None:
        """Hand back, let running tasks end, then stop; again is harmless."""
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

    def pause(self, seconds: float) -> Standing:
        """Hand back and take nothing for some seconds from now, whatever was asked before."""
        if self._mode is Mode.CONSUMING:
            self._mode = Mode.PAUSED
            self._handed_back = 0
            self._shut()
            logger.info("paused for %.0f s, %d handed back", seconds, self._handed_back)
        if self._mode is Mode.PAUSED:
            self._until = self._clock() + seconds
        return self.look()

    def resume(self) -> Standing:
        """End a pause; harmless without one, and no way out of a drain."""
        if self._mode is Mode.PAUSED:
            self._ended("on request")
        return self.look()

    def look(self) -> Standing:
        """The standing of this very moment; only for the loop's thread."""
        if self._consumer is not None:
            self._load = intake.load(self._consumer)
            if self._load.busy:
                self._busy_at = self._clock()
        return self.standing

    def _ended(self, why: str) -> None:
        self._mode = Mode.CONSUMING
        if self._reopen is not None:
            self._reopen()
            self._reopen = None
            self._wake_loop()
        logger.info("the pause has ended %s", why)

    # --- on the loop ---

    def _guarded(self, action: Callable[[], object]) -> bool:
        """Run it; an exception here would end the worker, and is logged instead."""
        try:
            action()
        except Exception:
            logger.exception("the worker's tasks can't be handed back")
            return False
        return True

    def _shut(self) -> None:
        if not self._guarded(lambda: self._take_back(self._consumer)):
            # What is out of Celery's hands and not in ours is put back when the channel closes.
            self._stop_worker()
        self._wake_loop()

    def _take_back(self, consumer: Any) -> None:
        if consumer is None:  # kombu has put back what had not begun, or leaves it in unacked
            intake.drop_waiting(self._pool)
            self._look_alone()
            return
        if self._stop_ticking is None:
            self._stop_ticking = intake.repeat(consumer.timer, TICK, self._tick)
        if self._mode is not Mode.CONSUMING:
            if self._reopen is None:
                self._reopen = intake.stop_taking(consumer, self._arrived)
            self._held += [(message, None) for message in intake.take_out(consumer)]
        self._hand_back(consumer)
        self._write_down()

    def _tick_no_more(self) -> None:
        if self._stop_ticking is not None:
            self._stop_ticking()
            self._stop_ticking = None

    def _arrived(self, message: Any) -> None:
        """A message that had been asked for before."""
        intake.disown(self._consumer, message)
        self._held.append((message, None))
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
        except Exception as exc:  # noqa: BLE001  # whatever it is, the messages must not be forgotten
            answers = [exc] * len(held)
        except BaseException:  # a greenlet that is killed, a worker that is told to leave
            self._held, self._under_way = held + self._held, 0
            raise
        kept: list[tuple[Any, float | None]] = []
        trouble = None
        for (message, tried), answer in zip(held, answers, strict=True):
            if isinstance(answer, Exception):
                trouble = redact(one_line(answer) or type(answer).__name__)
                kept.append((message, now if tried is None else tried))
            else:
                self._handed_back += answer
        self._held, self._under_way = kept + self._held, 0
        # A broker that hangs blocks the loop for its timeout: let it live in between.
        pause = max(RETRY, 2 * (self._clock() - began))
        self._retry_at = self._clock() + pause if kept else float("-inf")
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble is not None:
                logger.warning("%d tasks wait to be handed back: %s", len(kept), trouble)

    def _tick(self) -> None:
        # Celery's own stop runs the timers in a thread of its own.
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
        """What runs, and no more than that: the rest can't be known without a connection."""
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
        # What is on its way back is neither: greenlets come here meanwhile.
        if self._mode is Mode.DRAINING and not self._under_way:
            progress = Progress(self._handed_back, self._load.running, ended=self._is_over())
            self._record.write(progress, self._clock() - self._began)
