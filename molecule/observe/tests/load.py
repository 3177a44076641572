"""Send tasks all the time while other things happen."""

from __future__ import annotations

import json
import threading

from support import database
from support.inventory import Fleet
from support.tasks import run_in_release

#: Ends the sender, on its host.
STOP = "/run/observe-load-stop"

#: Seconds that one sender lasts; then comes the next.
LASTS = 60

_SEND = """
import json, pathlib, sys, time
from app.celery_app import celery_app
title, first, queue, seconds, stop = json.load(sys.stdin)
number, end = first, time.monotonic() + seconds
while not pathlib.Path(stop).exists() and time.monotonic() < end:
    arguments = {"run_id": f"{title}-{number}", "seconds": 0}
    try:
        celery_app.send_task("app.tasks.record_run", kwargs=arguments, queue=queue, retry=False)
        number += 1
    except Exception:  # the broker is away; the same is sent again
        pass
    time.sleep(0.5)
print(number)
"""


class Load:
    """Two tasks a second, from the producer's host, until `end`.

    Args:
        fleet: The fleet.
        title: What the tasks' names begin with.
        queue: Their queue.
    """

    def __init__(self, fleet: Fleet, title: str, queue: str) -> None:
        self._fleet = fleet
        self._title = title
        self._queue = queue
        self._host = fleet.one("celery_producers")
        self._sent = 0
        self._ending = threading.Event()
        fleet.must(self._host, ["rm", "-f", STOP])
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        while not self._ending.is_set():
            request = json.dumps([self._title, self._sent, self._queue, LASTS, STOP])
            printed = run_in_release(self._fleet, self._host, "web", "producer", _SEND, request)
            self._sent = int(printed)

    def end(self) -> int:
        """Stop sending; return how many tasks Redis has accepted."""
        self._ending.set()
        self._fleet.must(self._host, ["touch", STOP])
        self._thread.join(LASTS)
        assert not self._thread.is_alive(), "the sender has not ended"
        return self._sent

    def ended(self) -> list[str]:
        """Return the names of the tasks that have ended."""
        runs = database.runs(self._fleet, f"{self._title}-")
        return [str(run["run_id"]) for run in runs if run["finished_at"] is not None]
