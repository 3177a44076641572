# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Start and end processes of a running prefork pool (celery/concurrency/asynpool.py, billiard/pool.py).

Celery's own ``shrink`` sends SIGTERM to a process that has not yet said that it runs a task, although one may be on its
way. Here a process gets the message with which billiard ends a pool. It comes after all tasks that were written to the
process, so these run to their end, and the process leaves as it does at the worker's stop. Call everything in the event
loop's own thread.
"""

from __future__ import annotations

from typing import Any

from celery_fleet.compat.pools import ENDS, PREFORK, kind_of


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
        OSError: The system starts no further process; those that were started stay.
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


def _start(pool: Any, number: int) -> None:
    pool.grow(number)
    try:
        pool.maintain_pool()
    except OSError:
        # billiard can't clean up after a process that did not start.
        for process in [one for one in pool._pool if one._popen is None]:
            pool._pool.remove(process)
            pool._process_cleanup_queues(process)
        missing = max(0, pool._processes - len(pool._pool))
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
