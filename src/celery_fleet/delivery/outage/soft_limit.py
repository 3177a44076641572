"""Note a task's soft time limit while the task waits, and raise it between two attempts.

In a process of a prefork pool, a signal's handler raises the limit wherever the process is (billiard/pool.py). In the
middle of an attempt, this error can be lost: Python ignores it in the ``__del__`` with which redis-py closes a
connection, and turns it into a TypeError in the `inspect.getfullargspec` that kombu calls. The task would then wait
beyond its limit, or fail.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler


class SoftLimit:
    """A signal handler that notes the soft time limit of the running task."""

    def __init__(self) -> None:
        #: Whether the limit was reached.
        self.reached = False

    def __call__(self, *_: object) -> None:
        """Handle the signal."""
        self.reached = True


@contextmanager
def noted() -> Iterator[SoftLimit]:
    """Note the soft time limit instead of raising it; calls can be nested.

    Other pools don't have the signal, and only the main thread receives it.
    """
    before = signal.getsignal(SIG_SOFT_TIMEOUT)
    if isinstance(before, SoftLimit):
        yield before
        return
    limit = SoftLimit()
    if before is not soft_timeout_sighandler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield limit
        return
    signal.signal(SIG_SOFT_TIMEOUT, limit)
    try:
        yield limit
    finally:
        signal.signal(SIG_SOFT_TIMEOUT, before)
