"""End a process of the pool that does not get the task that it was given.

Celery's prefork pool can lose a task on its way into a process, while processes are replaced (``max_tasks_per_child``):
it counts the task as written, and the process waits for one. The task would never begin, its message would stay in
this worker's hands, and the process would get no other task. Once the process has ended, the pool gives the task to
another one. A process says that a task begins before it does, so none begins twice.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery_fleet.compat import pools

logger = logging.getLogger("celery_fleet.worker")

#: Seconds after which a task counts as lost. It takes milliseconds to arrive.
LIMIT = 10.0

#: Seconds between two looks.
INTERVAL = 2.0


class UnbegunTasks:
    """Remembers since when tasks have been on their way; use it in the event loop's own thread.

    Args:
        clock: A clock of this process, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[pools.Given, float] = {}

    def look(self, pool: Any) -> None:
        """End the processes that have waited for their task for too long."""
        now = self._clock()
        self._since = {given: self._since.get(given, now) for given in pools.lost_on_the_way(pool)}
        for given, since in self._since.items():
            if now - since >= LIMIT:
                logger.warning(
                    "task %s has not arrived in process %d after %.0f s: the process ends, another one gets it",
                    given.task_id,
                    given.pid,
                    now - since,
                )
                with suppress(ProcessLookupError):
                    os.kill(given.pid, signal.SIGKILL)
