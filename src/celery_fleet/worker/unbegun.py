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
from contextlib import suppress
from typing import Any

from celery_fleet.compat import lost_jobs

logger = logging.getLogger("celery_fleet.worker")

#: Seconds between two looks.
INTERVAL = 2.0

#: Number of looks in a row after which a task counts as lost. It takes milliseconds to arrive. These are looks and not
#: seconds, because the loop hears of tasks that begin between them, also after the whole worker was frozen.
LOOKS = 5


class UnbegunTasks:
    """Counts for how many looks tasks have been on their way; use it in the event loop's own thread."""

    def __init__(self) -> None:
        self._looks: dict[lost_jobs.Given, int] = {}

    def look(self, pool: Any) -> None:
        """End the processes that have waited for their task for too long."""
        lost = lost_jobs.lost_on_the_way(pool)
        self._looks = {given: self._looks.get(given, 0) + 1 for given in lost}
        for given, looks in self._looks.items():
            if looks >= LOOKS:
                logger.warning(
                    "task %s has not arrived in process %d: the process ends, and another one gets the task",
                    given.task_id,
                    given.pid,
                )
                with suppress(ProcessLookupError):
                    os.kill(given.pid, signal.SIGKILL)
