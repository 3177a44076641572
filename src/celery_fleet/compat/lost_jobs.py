# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Find tasks that were lost between prefork's pool and its processes (celery/concurrency/asynpool.py)."""

from __future__ import annotations

import fcntl
import termios
from typing import Any, NamedTuple


class Given(NamedTuple):
    """A task that prefork's pool has given to a process."""

    job: int
    task_id: str
    pid: int


def lost_on_the_way(pool: Any) -> list[Given]:
    """Return the tasks that prefork's pool has written to a living process, which neither has them nor can read them.

    A task is also here for the moment in which the process has read it and has not said so yet. Other pools have none.
    """
    inner: Any = getattr(pool, "_pool", None)
    buffer = getattr(inner, "outbound_buffer", None)
    if buffer is None:
        return []
    return [
        Given(number, str(job.correlation_id), job._write_to.pid)
        for number, job in list(inner._cache.items())
        if not job._accepted
        and job._write_to is not None
        and job not in buffer
        and (job._writer is None or job._writer() not in inner._active_writers)
        and job._write_to._is_alive()
        and _is_empty(job._write_to.inq._reader)
    ]


def _is_empty(pipe: Any) -> bool:
    """Return whether nothing waits in a pipe; False if it is closed."""
    try:
        return fcntl.ioctl(pipe.fileno(), termios.FIONREAD, b"\0" * 4) == b"\0" * 4
    except OSError:
        return False
