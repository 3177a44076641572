"""Send events and results of the main process in threads.

Celery sends heartbeats and task events from the event loop. It also sends the results of tasks that did not end by
themselves (a time limit, a lost child, a revoke). A broker or result store that hangs would block the loop. Here the
items go into a queue, which one thread empties.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from celery_fleet.common.errors import error_text

logger = logging.getLogger("celery_fleet.delivery")

Item = TypeVar("Item")

#: Largest numbers of events and results that wait. Beyond these, the oldest event or the newest result is dropped.
EVENTS, RESULTS = 1000, 10_000

#: Seconds after a failure until the next attempt.
EVENTS_PAUSE, RESULTS_PAUSE = 1.0, 2.0

#: Seconds that an ending process spends sending the remaining items.
EVENTS_FLUSH, RESULTS_FLUSH = 2.0, 5.0

#: Number of attempts for a result that the store refuses.
REFUSED = 3


class SendQueue(Generic[Item]):
    """A bounded queue and the one thread that empties it, in order.

    Args:
        name: The thread's name.
        send: Sends one item, in that thread.
        limit: Largest number of waiting items.
        pause: Seconds after a failure until the next attempt.
        again: Returns whether to try an item again that failed with this exception for the n-th time. If not, the item
            is dropped and, with ``clear``, all waiting items.
        dropped: Called with the items that were dropped, and the reason.
        newest: Drop the newest item instead of the oldest if the queue is full.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Item], object],
        *,
        limit: int,
        pause: float,
        again: Callable[[Exception, int], bool],
        dropped: Callable[[list[Item], str], object],
        clear: bool = False,
        newest: bool = False,
    ) -> None:
        self._name = name
        self._send = send
        self._limit = limit
        self._pause = pause
        self._again = again
        self._dropped = dropped
        self._clear = clear
        self._newest = newest
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._current: list[Item] = []
        self._ending = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._items) + len(self._current)

    def put(self, item: Item) -> None:
        """Add an item without waiting for it to be sent. After :meth:`close`, the item is dropped."""
        lost: list[Item] = []
        with self._changed:
            full = len(self._items) >= self._limit
            if self._ending or (full and self._newest):
                lost.append(item)
            else:
                if full:
                    lost.append(self._items.popleft())
                self._items.append(item)
                if (
                    self._thread is None
                ):  # start it late, because a forked process would not inherit the thread
                    self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    self._thread.start()
            self._changed.notify_all()
        if lost:
            self._dropped(lost, "the process ends" if self._ending else "too many wait")

    def close(self, within: float) -> int:
        """Send the remaining items for at most some seconds; return the number of items that were dropped."""
        end = time.monotonic() + within
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            while len(self) and self._thread is not None and self._thread.is_alive():
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            rest = [*self._current, *self._items]
            self._items.clear()
        if rest:
            self._dropped(rest, "the process ends")
        return len(rest)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._items:
                    if self._ending:
                        return
                    self._changed.wait()
                item = self._items.popleft()
                self._current = [item]
            lost = self._deliver(item)
            with self._changed:
                if lost and self._clear:
                    lost[0].extend(self._items)
                    self._items.clear()
                self._current = []
                self._changed.notify_all()
            if lost:
                self._dropped(*lost)
                self._rest()

    def _deliver(self, item: Item) -> tuple[list[Item], str] | None:
        tries = 0
        while True:
            try:
                self._send(item)
            except Exception as exc:  # noqa: BLE001  # the thread must survive any error
                tries += 1
                if self._again(exc, tries):
                    self._rest()
                    continue
                return [item], error_text(exc)
            else:
                return None

    def _rest(self) -> None:
        """Wait before the next attempt, but only briefly if the process ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending, self._pause)
            ending = self._ending
        if ending:
            time.sleep(min(self._pause, 0.2))


def events_queue(publish: Callable[[Any], object]) -> SendQueue[Any]:
    """Return the queue of events. They are dropped if the broker is away, because they would be outdated later."""
    state = {"dropped": 0, "told": False}

    def send(item: Any) -> None:
        publish(item)
        if state["dropped"]:
            logger.warning("events are sent again; %d were dropped", state["dropped"])
            state.update(dropped=0, told=False)

    def dropped(items: list[Any], why: str) -> None:
        state["dropped"] += len(items)
        if not state["told"]:
            state["told"] = True
            logger.warning("events can't be sent and are dropped until they can: %s", why)

    return SendQueue(
        "celery_fleet.events",
        send,
        limit=EVENTS,
        pause=EVENTS_PAUSE,
        again=lambda exc, tries: False,
        dropped=dropped,
        clear=True,
    )


def results_queue(
    store: Callable[[Any], object],
    away: Callable[[Exception], bool],
    name: Callable[[Any], str],
) -> SendQueue[Any]:
    """Return the queue of results, which are kept until they are stored or the process ends.

    Args:
        store: Stores a result.
        away: Returns whether an exception means that the store is away. Then the result is retried forever.
        name: Returns the name of a result for log lines.
    """
    told = {"away": False}

    def send(item: Any) -> None:
        store(item)
        if told["away"]:
            told["away"] = False
            logger.warning("results are stored again")

    def again(exc: Exception, tries: int) -> bool:
        if not away(exc):
            return tries < REFUSED
        if not told["away"]:
            told["away"] = True
            logger.warning(
                "a result can't be stored yet (%s): it is kept until it can", error_text(exc)
            )
        return True

    def dropped(items: list[Any], why: str) -> None:
        logger.error(
            "%d results are not stored (%s): %s",
            len(items),
            why,
            ", ".join(name(item) for item in items[:10]),
        )

    return SendQueue(
        "celery_fleet.results",
        send,
        limit=RESULTS,
        pause=RESULTS_PAUSE,
        again=again,
        dropped=dropped,
        newest=True,
    )
