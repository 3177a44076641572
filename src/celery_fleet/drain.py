"""Stop taking tasks: a drain, after which the worker ends, and a pause, after which it goes on.

Both begin in the same way: no further message is asked for, and what has not begun (prefetched, waiting
for a slot of the pool, for its ETA or for its rate limit) goes back to the head of its queue at once and
in order, for other workers to take. What runs goes on, and so does the event loop: heartbeat, time limits,
remote control, results and acknowledgements. Celery's own stop keeps such messages to itself until its
last task has ended.

SIGTERM and remote control's ``shutdown`` drain a prefork worker on Redis; a second SIGTERM is Celery's
warm stop, SIGQUIT its cold one. Other pools and brokers, and workers with a ``no_ack`` queue, keep
Celery's own. Remote control's ``fleet_pause`` and ``fleet_resume`` work where there is an event loop.

All happens on the loop's thread; the signal's handler does no more than wake it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import WorkerShutdown
from celery.worker.control import Panel

from celery_fleet import _celery57 as adapter
from celery_fleet.errors import one_line
from celery_fleet.record import Progress, Record
from celery_fleet.redact import redact

logger = logging.getLogger("celery_fleet.drain")

#: Seconds between two looks at what still runs.
TICK = 0.05

#: Seconds between two attempts to hand back what the broker did not take.
RETRY = 1.0

#: Seconds that a draining worker looks for its lost broker, or tries to hand back once nothing runs any
#: more. Then it stops as Celery does, which needs neither: else a drain could not end before the broker
#: is back, or never where it refuses a message for good.
WITHOUT_BROKER = 30.0

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
        self._timer: Any = None
        #: Messages that are nobody's but ours, oldest first; the time of a first vain attempt.
        self._held: list[tuple[Any, float | None]] = []
        self._retry_at = float("-inf")
        self._handed_back = 0
        self._called = False
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
            held=len(self._held),
            polling=self._load.polling,
        )

    # --- the connection ---

    def connected(self, consumer: Any) -> None:
        """A connection is up and does not consume yet."""
        if self._without_broker is not None:
            self._without_broker.cancel()
            self._without_broker = None
        self._consumer = consumer
        if self._mode is Mode.PAUSED and self._clock() >= self._until:
            self._ended("while it had no broker")
        if self._mode is not Mode.CONSUMING or self._held:
            self._shut()

    def disconnected(self) -> None:
        """The connection is lost, or the worker ends."""
        consumer, self._consumer = self._consumer, None
        self._reopen = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if adapter.told_to_stop():
            self._retry_at = float("-inf")
            self._guarded(lambda: self._hand_back(consumer))
            self._tell_of_the_rest()
        elif (self._mode is Mode.DRAINING or self._called) and self._without_broker is None:
            # Each vain attempt to connect ends here as well.
            self._without_broker = threading.Timer(WITHOUT_BROKER, self._give_up)
            self._without_broker.daemon = True
            self._without_broker.start()

    def _give_up(self) -> None:
        self._tell_of_the_rest()
        adapter.stop_worker()

    def _tell_of_the_rest(self) -> None:
        if self._held:
            logger.error(
                "%d tasks could not be handed back (%s): they stay in unacked and come again after the"
                " visibility timeout",
                len(self._held),
                self._trouble,
            )

    def called(self) -> None:
        """A drain is about to be asked for; safe in a signal's handler."""
        self._called = True

    @property
    def is_ending(self) -> bool:
        """Whether a drain was asked for, be it that it could not begin yet."""
        return self._called or self._mode is Mode.DRAINING

    @property
    def can_drain(self) -> bool:
        """Whether there is a connection whose worker can be drained."""
        return self._consumer is not None and adapter.why_not_drained(self._consumer) is None

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
            adapter.stop_worker()

    def _take_back(self, consumer: Any) -> None:
        if self._timer is None:
            self._timer = consumer.timer.call_repeatedly(TICK, self._tick)
        if self._mode is not Mode.CONSUMING:
            if self._reopen is None:
                self._reopen = adapter.stop_taking(consumer, self._arrived)
            self._held += [(message, None) for message in adapter.take_out(consumer)]
        self._hand_back(consumer)
        self._write_down()

    def _arrived(self, message: Any) -> None:
        """A message that had been asked for before."""
        adapter.disown(self._consumer, message)
        self._held.append((message, None))
        self._guarded(lambda: self._hand_back(self._consumer))

    def _hand_back(self, consumer: Any) -> None:
        if not self._held or consumer is None or self._clock() < self._retry_at:
            return
        now, began = time.time(), self._clock()
        try:
            answers = adapter.give_back(consumer, self._held)
        except Exception as exc:  # noqa: BLE001  # whatever it is, the messages must not be forgotten
            answers = [exc] * len(self._held)
        kept: list[tuple[Any, float | None]] = []
        trouble = None
        for (message, tried), answer in zip(self._held, answers, strict=True):
            if isinstance(answer, Exception):
                trouble = redact(one_line(answer) or type(answer).__name__)
                kept.append((message, now if tried is None else tried))
            else:
                self._handed_back += answer
        self._held = kept
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
        if self._mode is Mode.CONSUMING and not self._held:
            self._timer.cancel()
            self._timer = None
        elif self._mode is Mode.DRAINING and self._is_over():
            logger.info("drain: ended after %.1f s", self._clock() - self._began)
            adapter.stop_worker()

    def _is_over(self) -> bool:
        if self._load.busy:
            return False
        return not self._held or self._clock() - self._busy_at >= WITHOUT_BROKER

    def _write_down(self) -> None:
        self.look()
        if self._mode is Mode.DRAINING:
            progress = Progress(self._handed_back, self._load.running, ended=self._is_over())
            self._record.write(progress, self._clock() - self._began)


class Bell:
    """SIGTERM's handler: wakes the event loop, since it must not do the work itself."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._pid = os.getpid()
        self._rung = False
        self._hostname: str | None = None
        self._installed = False
        self._pipe: tuple[int, int] | None = None

    def connect(self, consumer: Any) -> None:
        """Have the loop hear the bell, which a reconnect forgets; take SIGTERM from Celery, once."""
        self._hostname = consumer.hostname
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        reader, writer = self._pipe
        consumer.hub.add_reader(reader, self._heard, reader)
        celerys = signal.getsignal(signal.SIGTERM)
        # An embedded worker has no handler, and no thread but the main one can set it.
        on_main = threading.current_thread() is threading.main_thread()
        if not self._installed and callable(celerys) and on_main:
            self._installed = True
            signal.signal(signal.SIGTERM, partial(self._ring, writer, celerys))

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
