"""Tell an error of a Redis that is away from one that would stay the same."""

from __future__ import annotations

import errno
import re
import socket

from redis import exceptions as redis_errors

from celery_fleet.common.errors import is_shortage
from celery_fleet.delivery.outage.breaker import BrokerAwayError

_AWAY = (
    BrokerAwayError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
)

#: Errors of the network that have no class in Python. Others of the operating system, such as a full or read-only file
#: system below a result store, would stay the same.
_UNREACHABLE = frozenset(
    {
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EADDRNOTAVAIL,
    }
)

#: Temporary error replies of Redis, for which redis-py has no classes: MASTERDOWN and TRYAGAIN have none in redis-py
#: 5.2. Before version 7, Redis wraps the reply to a script's command in an error of the script.
_SOON = re.compile(
    r"^(BUSY|MASTERDOWN|TRYAGAIN|MISCONF|NOREPLICAS) "
    r"|^(ERR )?Error running script .* -(OOM|READONLY|MASTERDOWN|TRYAGAIN|MISCONF|NOREPLICAS) "
)


def is_away(exc: BaseException | None) -> bool:
    """Return whether an error means that the broker can't take a message now, but will later.

    A missing right does not count: it would stay the same however long a task waits. A refused password counts, because
    it was right when this worker started. It has been revoked, and the task runs again in the next worker. A shortage
    of this process does not count: a process that has leaked its file descriptors would wait for ever.
    """
    if is_shortage(exc):
        return False
    while exc is not None:
        if isinstance(exc, redis_errors.AuthorizationError):
            return False
        if isinstance(exc, _AWAY) or (isinstance(exc, OSError) and exc.errno in _UNREACHABLE):
            return True
        if isinstance(exc, redis_errors.ResponseError) and _SOON.search(str(exc)):
            return True
        exc = exc.__cause__
    return False
