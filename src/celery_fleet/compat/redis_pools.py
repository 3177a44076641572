"""Let redis-py's pools take a connection back while they make another one (redis/connection.py of redis-py 5.2).

A garbage collection at that moment may delete a ``PubSub``, which returns its connection to the pool. If the lock of
the pool is not reentrant, the thread waits for itself for ever, such as one that subscribes again after a lost
connection.
"""

from __future__ import annotations

import threading
from typing import Any

from redis import connection

_Pool: Any = connection.ConnectionPool


def install() -> None:
    """Give the pools of this process reentrant locks, as later versions of redis-py do."""
    if isinstance(_Pool()._lock, type(threading.RLock())):  # noqa: SLF001  # to see what it has
        return
    reset = _Pool.reset

    def with_reentrant_lock(pool: Any) -> None:
        reset(pool)
        pool._lock = threading.RLock()  # noqa: SLF001  # see above

    _Pool.reset = with_reentrant_lock
