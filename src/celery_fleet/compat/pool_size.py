# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Start and end processes of a running prefork pool (celery/concurrency/asynpool.py, billiard/pool.py).

Celery's own ``shrink`` sends SIGTERM to a process that has not yet said that it runs a task, although one may be on its
way. Here a process gets the message with which billiard ends a pool. It comes after all tasks that were written to the
process, so these run to their end, and the process leaves as it does at the worker's stop. Call everything in the event
loop's own thread.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from traceback import walk_tb
from typing import Any

from billiard import popen_fork, popen_spawn_posix

from celery_fleet.common.errors import error_text
from celery_fleet.compat.pools import ENDS, PREFORK, kind_of

logger = logging.getLogger("celery_fleet.scaling")

#: Seconds after which a worker ends if its pool has no process and none starts.
EMPTY = 60.0

#: The pipes that billiard leaves open if a process does not start.
_LEFT_OPEN = {
    popen_fork.Popen._launch.__code__: ("parent_r", "child_w"),
    popen_spawn_posix.Popen._launch.__code__: ("parent_r",),
}


def why_fixed(pool: Any) -> str | None:
    """Return why a pool's size can't change; None if it can."""
    kind = kind_of(pool)
    if kind == PREFORK:
        return None
    name = kind or type(pool).__module__.rpartition(".")[2]
    return f"its pool is {name}, and only prefork can start and end processes"


def pids(pool: Any) -> list[int]:
    """Return the ids of a pool's processes, also of those that end after their task; none for other pools."""
    processes = pool._pool._pool if kind_of(pool) == PREFORK else ()
    return [int(process.pid) for process in processes if process.pid]


def ending(pool: Any) -> int:
    """Return how many processes end after their task."""
    return max(0, len(pids(pool)) - int(pool.num_processes)) if kind_of(pool) == PREFORK else 0


def resize(consumer: Any, size: int) -> int:
    """Start or end processes, and have the worker prefetch for that many; return the new number.

    It is higher than ``size`` if no more processes can be told to end now.

    Raises:
        OSError, MemoryError: The system starts no further process; those that were started stay.
    """
    pool = consumer.pool
    before = int(pool.num_processes)
    try:
        if size > before:
            _start(pool._pool, size - before)
        else:
            _end(pool._pool, before - size)
    finally:
        after = int(pool.num_processes)
        # What remote control shows as the pool's concurrency.
        pool.limit = after
        if after != before:
            consumer._update_prefetch_count(after - before)
    return after


def survive_refused_processes(pool: Any) -> None:
    """Keep a pool going if the system starts no process to replace one that has ended; its own timer tries again.

    Otherwise such an error would end the worker: the loop takes it for a lost connection, and a new connection can't
    watch a process that has not started. The timer runs every 5 s (AsynPool.timers). A worker without any process ends
    nevertheless, so that systemd ends what its tasks have left running, and starts it again.
    """
    if kind_of(pool) != PREFORK:
        return
    inner = pool._pool
    repopulate = inner._repopulate_pool
    told, empty = False, float("inf")

    def repopulate_if_possible(exitcodes: Any) -> None:
        nonlocal told, empty
        try:
            repopulate(exitcodes)
        except (OSError, MemoryError) as exc:
            _forget_unstarted(inner, exc)
            if not told:
                logger.warning(
                    "%d of the pool's %d processes run, and no other starts: %s",
                    *(len(inner._pool), inner._processes, error_text(exc)),
                )
            told = True
            empty = float("inf") if inner._pool else min(empty, time.monotonic())
            if time.monotonic() - empty > EMPTY:
                empty = float("inf")
                logger.error("the worker ends, because its pool has no process, and none starts")
                signal.raise_signal(signal.SIGTERM)
        else:
            empty = float("inf")
            if told and len(inner._pool) >= inner._processes:
                logger.info("all processes of the pool run again")
                told = False

    # Not `maintain_pool`, which would then not release the slots of tasks that were lost with a process.
    inner._repopulate_pool = repopulate_if_possible


def _forget_unstarted(pool: Any, exc: BaseException) -> None:
    """Clean up after a process that did not start, which billiard can't."""
    for process in [one for one in pool._pool if one._popen is None]:
        pool._pool.remove(process)
        pool._process_cleanup_queues(process)
    for frame, _ in walk_tb(exc.__traceback__):
        for name in _LEFT_OPEN.get(frame.f_code, ()):
            fd = frame.f_locals.get(name)
            if fd is not None:
                os.close(fd)


def _start(pool: Any, number: int) -> None:
    pool.grow(number)
    try:
        type(pool)._repopulate_pool(pool, [])
    except (OSError, MemoryError) as exc:
        _forget_unstarted(pool, exc)
        # Others may be missing because they could not be replaced.
        missing = min(number, max(0, pool._processes - len(pool._pool)))
        pool._processes -= missing
        pool._putlock.shrink(missing)
        raise


def _end(pool: Any, number: int) -> None:
    # A process that is being written to, or has not started yet, can't get the message now.
    able = pool._all_inqueues - pool._active_writes
    processes = [one for one in pool._pool if one.inqW_fd in able]
    # Idle ones first.
    processes.sort(key=lambda one: one.inqW_fd in pool._busy_workers)
    for process in processes:
        if not number:
            return
        try:
            process.inq.put(None)
        except BlockingIOError:  # its pipe is full of tasks
            continue
        number -= 1
        # The pool writes to it no more, and its end is no error.
        pool._all_inqueues.discard(process.inqW_fd)
        pool._busy_workers.discard(process.inqW_fd)
        process._controlled_termination = True
        setattr(process, ENDS, True)
        pool._processes -= 1
        pool._putlock.shrink(1)
