"""Decide whether a process works or should be replaced, and feed its watchdog accordingly.

The proof is progress, not a living process. A process without progress is given up only while its broker (and a
worker's result store) answers: a hanging server blocks Celery's loop for the whole outage, and replacing the process
would not help. The module is pure logic and one thread around it; the caller supplies the state to judge.

The thread needs Python's interpreter lock to feed the watchdog. With a pool other than prefork, tasks run in the same
process. A task that holds the interpreter longer than the unit's WatchdogSec looks like a hang: a single call into C
in ``solo`` or ``threads``, or plain computing in ``gevent`` or ``eventlet``. Such a worker needs a longer
``watchdog_sec``.

The manager's watchdog starts with READY. Before that, the watch itself ends a process that is still not ready after
its broker has answered for :data:`START_LIMIT` seconds. It does not cover a hang before the watch starts, such as in
the application's import.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from celery_fleet.common.errors import one_line
from celery_fleet.common.periodic import Periodic
from celery_fleet.supervision.notify import Notifier

logger = logging.getLogger("celery_fleet.watch")

#: Seconds between two checks.
INTERVAL = 1.0

#: Seconds between two checks before the process is ready, so that readiness is reported quickly.
STARTING_INTERVAL = 0.25

#: Checks in a row without progress before the broker is asked: a process that was stopped and continues,
#: or a busy host, causes one or two.
TOLERATED = 3

#: Seconds that a process gets to recover after its broker did not answer.
GRACE = 30.0

#: Seconds that reconnecting may take while the broker answers; Celery itself pauses up to 30 s.
RECONNECT_LIMIT = 60.0

#: Seconds that a start may take while the broker answers.
START_LIMIT = 300.0

#: Exit status of a process that ends itself because it does not become ready, from ``sysexits.h``.
EX_SOFTWARE = 70

#: Seconds between two questions to the broker while waiting for it.
ASK_EVERY = 5.0

#: Longest pause between two feedings in seconds; the manager's deadline may require a shorter one.
FEED_EVERY = 5.0


class State(Enum):
    """What a check of the process showed."""

    STARTING = "starting"
    WORKING = "working"
    WAITING = "waiting for the broker"
    DRAINING = "draining"
    STUCK = "stuck"


@dataclass(frozen=True)
class ProcessStatus:
    """The result of one check: a state and its text for ``systemctl status``.

    ``attempts`` counts how often the process has started to connect; a change shows that it keeps trying.
    """

    state: State
    text: str
    attempts: int = 0


class Watch(Periodic):
    """Checks a process once a second, reports to the manager, and decides whether to feed its watchdog.

    Args:
        notifier: the connection to the service manager.
        observe: returns the state of the process; must not block.
        ask: returns which server does not answer and why (``broker redis1:6379: …``), None if all answer;
            bounded in time.
        clock: monotonic seconds.
        leave: ends the process with a status, even if other threads hang.
        verdict: called with whether the process works, whenever that changes after it was ready.
    """

    def __init__(
        self,
        notifier: Notifier,
        observe: Callable[[], ProcessStatus],
        ask: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], object] = os._exit,
        verdict: Callable[[bool], object] = lambda _: None,
    ) -> None:
        super().__init__("celery_fleet.watch")
        self._notifier = notifier
        self._observe = observe
        self._ask = ask
        self._clock = clock
        self._leave = leave
        self._verdict = verdict
        self._given_up = False
        self._ready = False
        self._stopping = False
        self._bad = 0
        self._grace_until = float("-inf")
        self._asked_at = float("-inf")
        self._trouble: str | None = None
        self._answering_since: float | None = None
        self._attempts = 0
        self._fed_at = float("-inf")
        self._told: set[str] = set()

    # --- one step ---

    def step(self) -> bool:
        """Check once and report to the manager; return whether the watchdog may be fed."""
        observation = self._safe_observe()
        if observation.state is State.DRAINING:
            self._tell_stopping(observation.text)
            healthy = True
        elif observation.state in (State.STARTING, State.WAITING):
            healthy = self._waiting(observation)
        elif observation.state is State.STUCK:
            healthy = self._stuck(observation)
        else:
            self._working(observation)
            healthy = True
        good = healthy or not self._ready
        if good:
            self._feed()
        if good is self._given_up:
            self._given_up = not good
            self._verdict(good)
        return good

    def _safe_observe(self) -> ProcessStatus:
        try:
            return self._observe()
        except Exception as exc:  # noqa: BLE001  # the thread must survive any error
            # A race with a consumer that is being rebuilt, or changed internals of Celery: no proof of progress.
            self._tell_once("state", exc)
            return ProcessStatus(State.STUCK, "state unknown")

    def _working(self, observation: ProcessStatus) -> None:
        self._bad = 0
        self._answering_since = None
        self._asked_at = float("-inf")
        if self._ready:
            self._notifier.status(observation.text)
        else:
            self._ready = True
            self._notifier.ready(observation.text)

    def _waiting(self, observation: ProcessStatus) -> bool:
        self._bad = 0
        now = self._clock()
        if observation.attempts != self._attempts:
            self._attempts = observation.attempts
            if self._answering_since is not None:
                self._answering_since = now
        if now - self._asked_at >= ASK_EVERY:
            self._trouble = self._safe_ask()
            now = self._asked_at = self._clock()
            if self._trouble is not None:
                self._answering_since = None
            elif self._answering_since is None:
                self._answering_since = now
        if self._trouble is None:
            self._notifier.status(observation.text)
        else:
            self._notifier.status(f"waiting for {self._trouble}")
        since = self._answering_since
        if since is None:
            return True
        if not self._ready and now - since >= START_LIMIT:
            logger.error(
                "not ready, though the broker has answered for %.0f s (%s); exits to be restarted",
                now - since,
                observation.text,
            )
            self._leave(EX_SOFTWARE)
        return now - since < RECONNECT_LIMIT

    def _stuck(self, observation: ProcessStatus) -> bool:
        if not self._ready:
            return self._waiting(observation)  # it may be in a step that will end
        self._answering_since = None
        self._bad += 1
        if self._bad < TOLERATED:
            return True
        trouble = self._safe_ask()
        if trouble is not None:
            self._bad = 0
            self._grace_until = self._clock() + GRACE
            self._notifier.status(f"waiting for {trouble}")
            return True
        self._notifier.status(observation.text)
        if self._clock() < self._grace_until:
            return True
        self._tell_once("verdict", f"{observation.text}, though the broker answers")
        return False

    def _safe_ask(self) -> str | None:
        try:
            return self._ask()
        except Exception as exc:  # noqa: BLE001  # the thread must survive any error
            # An error of the check does not excuse a process without progress.
            self._tell_once("ask", exc)
            return None

    def _tell_stopping(self, text: str) -> None:
        if self._stopping:
            self._notifier.status(text)
        else:
            self._stopping = True
            self._notifier.stopping(text)

    def _tell_once(self, topic: str, what: object) -> None:
        if topic not in self._told:
            self._told.add(topic)
            trace = what if isinstance(what, BaseException) else None
            logger.error("watchdog, %s: %s", topic, one_line(what), exc_info=trace)

    def _feed(self) -> None:
        now = self._clock()
        pause = min(FEED_EVERY, (self._notifier.watchdog or FEED_EVERY * 4) / 4)
        if now - self._fed_at >= pause - INTERVAL / 2:
            self._fed_at = now
            self._notifier.feed()

    def turn(self) -> float:
        """Check once; return the seconds until the next check."""
        try:
            self.step()
        except Exception as exc:  # noqa: BLE001  # the thread must survive any error
            self._tell_once("step", exc)
        return INTERVAL if self._ready else STARTING_INTERVAL
