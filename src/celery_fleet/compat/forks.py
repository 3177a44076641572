"""New locks in a forked process for kombu's cached properties (kombu/utils/objects.py) and redis-py's connection pools.

Each such property, such as the client of a result backend, has one lock for all objects of its class. If a thread of
the main process holds it while the pool forks a process, it stays held there, and the first task that needs the
property waits for ever. A worker of stock Celery has no such threads. Ours has, for example the one that stores that
a task lost its process, while the pool replaces that process.

The same holds for a connection pool of redis-py, which a forked process resets when it uses it for the first time. From
redis-py 6 on it keeps its lock then, and from 8 on it even waits for it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import redis
from kombu.utils.objects import cached_property

#: Packages with such properties.
_PACKAGES = frozenset({"celery", "kombu"})


@cache  # a hook can't be removed, so it must not be added twice
def install() -> None:
    """Give each process that this one forks new locks, before it runs anything else."""
    os.register_at_fork(after_in_child=_renew)
    # A BlockingConnectionPool makes a new lock by itself.
    pool: Any = redis.ConnectionPool
    pool.reset = _with_a_new_lock(pool.reset)


def _with_a_new_lock(reset: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(reset)
    def renewed(pool: Any) -> None:
        # While it is made, a pool has no process yet.
        if getattr(pool, "pid", os.getpid()) != os.getpid():
            pool._lock = threading.RLock()  # noqa: SLF001  # redis-py has no other way
        reset(pool)

    return renewed


def _renew() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in _PACKAGES:
            continue
        for value in list(vars(module).values()):
            # Not `isinstance`, which would resolve Celery's lazy proxies.
            if issubclass(type(value), type):
                for attribute in vars(value).values():
                    if isinstance(attribute, cached_property):
                        attribute.lock = threading.RLock()
