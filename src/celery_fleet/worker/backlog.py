"""Find out how long the oldest task of a worker's queues has been waiting, in a thread with its own connection.

The thread keeps a broker that hangs from blocking the worker's loop. A script reads only the sending time out of the
message at the head of each list, because a message may be large.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis

from celery_fleet.common.errors import error_text
from celery_fleet.common.periodic import Periodic
from celery_fleet.compat import queues, requests
from celery_fleet.delivery.keys import SENT, direct_queue
from celery_fleet.delivery.lease import internals
from celery_fleet.delivery.scripts import Script, run
from celery_fleet.delivery.sending_time import sent_at

logger = logging.getLogger("celery_fleet.scaling")

#: Seconds between two looks, for the broker's answer, and after which an earlier look says nothing any more.
INTERVAL = 2.0
TIMEOUT = 3.0
STALE = 15.0

#: KEYS: lists. ARGV: the header. Returns for each list when the message at its head was sent (Unix time), ``""`` if it
#: does not say, and nil if the list is empty: false in Lua, where a nil would end the answer. The header comes after
#: the arguments, in which quotation marks have a backslash before them. Its hyphens would be operators of the pattern,
#: and without the ``^``, a message that lacks it would be searched from each of its characters.
HEADS = Script("""
local header = string.gsub(ARGV[1], '%p', '%%%0')
local found = {}
for i = 1, #KEYS do
  local item = redis.call('LRANGE', KEYS[i], -1, -1)[1]
  found[i] = item and (string.match(item, '^.*"' .. header .. '": ?(%d+%.?%d*)') or '') or false
end
return found
""")


class Backlog(Periodic):
    """Looks at the worker's queues.

    Args:
        worker: Celery's worker.
        is_paused: Whether nothing is fetched from a queue.
    """

    def __init__(self, worker: Any, is_paused: Callable[[str], bool]) -> None:
        super().__init__("celery_fleet.backlog")
        self._worker = worker
        self._is_paused = is_paused
        self._client: redis.Redis | None = None
        self._address: tuple[Any, ...] | None = None
        # When each list was last seen empty: what is in it now came later.
        self._emptied: dict[str, float] = {}
        self._began = time.time()
        self._trouble: str | None = None
        self._seen = (float("-inf"), 0.0)

    def waited(self) -> float:
        """Return how many seconds the oldest task has waited, in the queues or in this worker; 0 without one."""
        moment, sent = self._seen
        known = [sent] if sent and time.monotonic() - moment <= STALE else []
        return max(0.0, time.time() - min([*known, *_received()], default=time.time()))

    def turn(self) -> float:
        """Look once; return the seconds until the next look."""
        try:
            self._seen = (time.monotonic(), self._oldest())
            self._trouble = None
        except Exception as exc:  # noqa: BLE001  # a broker that is away, or older rights; the worker says the first
            text = error_text(exc)
            if text != self._trouble:
                self._trouble = text
                logger.warning("the wait of the oldest task is not known: %s", text)
        return INTERVAL

    def _oldest(self) -> float:
        """Return when the oldest waiting message was sent; 0 without one."""
        channel = internals.channel_of(self._worker)
        if channel is None:
            return 0.0
        own = direct_queue(self._worker.hostname)
        lists = [
            key
            for queue in tuple(channel.active_queues)
            if queue != own and not self._is_paused(queue)
            for key in queues.priority_keys(channel, queue)
        ]
        if not lists:
            return 0.0
        return oldest(self._heads(channel, lists), self._emptied, time.time(), self._began)

    def _heads(self, channel: Any, lists: list[str]) -> dict[str, bytes | None]:
        address = internals.address_of(channel)
        if self._client is None or address != self._address:
            if self._client is not None:
                self._client.close()
            self._client, self._address = internals.client_of(channel, TIMEOUT), address
        return dict(zip(lists, run(self._client, HEADS, lists, [SENT]), strict=True))


def oldest(
    heads: dict[str, bytes | None], emptied: dict[str, float], now: float, began: float
) -> float:
    """Return when the oldest message at the head of some lists began to wait (Unix time); 0 without one.

    A message that was handed back counts from when its list was last empty. So does one that does not say when it was
    sent; if the list was never empty, it counts from the first look.

    Args:
        heads: The answer of `HEADS`, by list.
        emptied: When each list was last seen empty; this is updated.
        now: The time of the answer.
        began: The time of the first look.
    """
    found = []
    for key, head in heads.items():
        if head is None:
            emptied[key] = now
        elif head:
            found.append(max(float(head), emptied.get(key, 0.0)))
        else:
            found.append(emptied.get(key, began))
    return min(found, default=0.0)


def _received() -> Iterable[float]:
    """Yield when each task was sent that this worker has received and not started, or its ETA if that is later."""
    for request in requests.waiting():
        received: float = getattr(request, "celery_fleet_received", time.time())
        sent = sent_at(request.message) or received
        yield max(sent, request.eta.timestamp()) if request.eta else sent
