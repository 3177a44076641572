"""Stop taking tasks: a drain, after which the worker ends, and a pause, after which it goes on.

Both begin in the same way: no further message is asked for, and what has not begun (prefetched, waiting
for a slot of the pool, for its ETA or for its rate limit) goes back to the head of its queue at once and
in order, for other workers to take. What runs goes on, and so does the event loop: heartbeat, time limits,
remote control, results and acknowledgements. Celery's own stop keeps such messages to itself until its
last task has ended.

SIGTERM and remote control's ``shutdown`` drain a worker of prefork, threads, solo or gevent on Redis; a
second SIGTERM is Celery's warm stop, SIGQUIT its cold one. Other pools and brokers, and workers with a
``no_ack`` queue, keep Celery's own. Remote control's ``fleet_pause`` and ``fleet_resume`` work for the same.

All happens on the loop's thread, and the signal's handler does no more than wake it and shut the pool's
door. A solo pool's task keeps the loop from hearing: it hands back when that has ended, before another
one begins. With gevent there is no loop but greenlets: whatever asks Redis gives way there.

Where the broker is away and the loop lives on, a worker drains all the same: it ends when its tasks have.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import WorkerShutdown
from celery.worker.control import Panel

from celery_fleet import _celery57 as adapter
from celery_fleet._pools57 import Nudge
from celery_fleet.errors import one_line
from celery_fleet.record import Progress, Record
from celery_fleet.redact import redact

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


class Gate:
    """Lets tasks in, or not. One for a worker's life, through all of its connections."""

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
        self._load = adapter.Load(0, 0, polling=False)
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
        self._drains = adapter.why_not_drained(consumer) is None
        adapter.note_queues(consumer)
        adapter.door(consumer)
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
        if adapter.told_to_stop():
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
            self._stop_ticking = adapter.repeat(self._timer, TICK, self._tick_alone)
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
        adapter.stop_worker()
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
            adapter.shut(self._pool)

    @property
    def is_ending(self) -> bool:
        """Whether a drain was asked for, be it that it could not begin yet."""
        return self._called or self._mode is Mode.DRAINING

    @property
    def can_drain(self) -> bool:
        """Whether there is a connection whose worker can be drained, or a loop that goes on without one."""
        if self._consumer is None:
            return self._drains and self._lives_alone
        return adapter.why_not_drained(self._consumer) is None

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
            self._load = adapter.load(self._consumer)
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
            adapter.drop_waiting(self._pool)
            self._look_alone()
            return
        if self._stop_ticking is None:
            self._stop_ticking = adapter.repeat(consumer.timer, TICK, self._tick)
        if self._mode is not Mode.CONSUMING:
            if self._reopen is None:
                self._reopen = adapter.stop_taking(consumer, self._arrived)
            self._held += [(message, None) for message in adapter.take_out(consumer)]
        self._hand_back(consumer)
        self._write_down()

    def _tick_no_more(self) -> None:
        if self._stop_ticking is not None:
            self._stop_ticking()
            self._stop_ticking = None

    def _arrived(self, message: Any) -> None:
        """A message that had been asked for before."""
        adapter.disown(self._consumer, message)
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
            answers = adapter.give_back(consumer, held)
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
        if self._consumer is not None and not adapter.told_to_stop():
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
        if self._consumer is None and not adapter.told_to_stop():
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
        self._load = adapter.Load(adapter.at_work(self._pool), 0, polling=False)
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


class Bell:
    """SIGTERM's handler: wakes the event loop, since it must not do the work itself."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._pid = os.getpid()
        self._rung = False
        self._hostname: str | None = None
        self._installed = self._listens = False
        self._pipe: tuple[int, int] | None = None

    def connect(self, consumer: Any) -> None:
        """Have the loop hear the bell, which a reconnect forgets; take SIGTERM from Celery, once."""
        self._hostname = consumer.hostname
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        reader, writer = self._pipe
        adapter.listen(consumer, reader, self._heard, known=self._listens)
        self._listens = True
        self._gate.heard = partial(self._heard, reader)
        if consumer.hub is not None:
            adapter.door(consumer).on_freed = partial(consumer.hub.call_soon, self._gate.heard)
        celerys = signal.getsignal(signal.SIGTERM)
        # An embedded worker has no handler, and no thread but the main one can set it.
        if not self._installed and callable(celerys):
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, partial(self._ring, writer, celerys))
                self._installed = True

    def _ring(
        self, writer: int, celerys: Callable[[int, Any], object], signum: int, frame: Any
    ) -> None:
        # A pool's child has this handler until it resets it. Without a connection nothing is held.
        if self._rung or os.getpid() != self._pid or not self._gate.can_drain:
            celerys(signum, frame)
            return
        self._rung = True
        self._gate.called()
        os.write(writer, b"!")

    def _heard(self, reader: int) -> None:
        try:
            os.read(reader, 16)
        except BlockingIOError:
            return
        self._gate.drain()
        # Celery's handler sends it first; but what an application does then must not keep tasks waiting.
        signals.worker_shutting_down.send(
            sender=self._hostname, sig="SIGTERM", how="Warm", exitcode=0
        )


def install(app: Any) -> Gate:
    """Add the step and the commands to the app's worker, before it builds its blueprints."""
    gate = Gate(Record.of(os.environ))
    bell = Bell(gate)

    class Drain(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
        """Tells the gate of each connection, before anything is consumed."""

        name = "celery_fleet.Drain"
        requires = ("celery.worker.consumer.tasks:Tasks",)
        told = False

        def start(self, consumer: Any) -> None:
            why_not = adapter.why_not_drained(consumer)
            if why_not is not None and not self.told:
                self.told = True
                logger.info("SIGTERM is left to Celery's own warm stop: %s", why_not)
            gate.connected(consumer)
            if why_not is None:
                bell.connect(consumer)

        def stop(self, consumer: Any) -> None:
            gate.disconnected()

        def info(self, consumer: Any) -> dict[str, Any]:
            """What ``inspect stats`` says of it."""
            tasks = consumer.task_consumer
            queues = [queue.name for queue in tasks.queues] if tasks else []
            events = adapter.sends_task_events(consumer)
            return {"fleet": {**gate.look().as_dict(), "queues": queues, "task_events": events}}

    app.steps["consumer"].add(Drain)
    register(gate)
    return gate


def register(gate: Gate) -> None:
    """Add the commands of remote control; ``shutdown`` takes the place of Celery's."""

    def fleet_pause(state: Any, seconds: Any = None, **_: Any) -> dict[str, Any]:
        """Take no tasks for some seconds, and hand back those that have not begun."""
        why_not = adapter.why_not_paused(state.consumer)
        if why_not is not None:
            return {"state": "unsupported", "why": why_not}
        try:
            wanted = float(seconds)
        except (TypeError, ValueError):
            wanted = 0.0
        if not 0 < wanted <= LONGEST_PAUSE:
            return {"error": f"seconds must be above 0 and at most {LONGEST_PAUSE:.0f}"}
        return gate.pause(wanted).as_dict()

    def fleet_resume(state: Any, **_: Any) -> dict[str, Any]:  # Celery's signature
        """Take tasks again after fleet_pause."""
        return gate.resume().as_dict()

    def shutdown(state: Any, msg: str = "Got shutdown from remote", **_: Any) -> None:
        """Hand back what has not begun, let running tasks end, then leave."""
        logger.warning("%s", msg)
        if not gate.can_drain:
            raise WorkerShutdown(0)
        gate.drain()

    Panel.register(name="fleet_pause", args=[("seconds", float)], signature="<seconds>")(
        fleet_pause
    )
    Panel.register(name="fleet_resume")(fleet_resume)
    Panel.register(name="shutdown")(shutdown)
