"""Choose ports of this machine for servers that are started later.

A port that is only looked up can be gone when its server starts: meanwhile the kernel may give it to a connection or to
another process that asks for a free one. So it stays bound here, without a listener. The kernel then gives it to no
one, but a server that asks for this port gets it, because both sockets set `SO_REUSEADDR`, as servers do.

Only the standard library is used.
"""

from __future__ import annotations

import os
import socket
from collections import deque

#: How many ports a process keeps bound, each with a file descriptor: the last ones, whose servers may not run yet.
KEPT = 100

_kept: deque[int] = deque()


def free_port() -> int:
    """Return a free port of 127.0.0.1. Until its server listens, connections to it are refused."""
    return hold(0)


def listens(port: int) -> bool:
    """Return whether a server listens on this port of 127.0.0.1.

    Ask this before a client of redis-py is used: it waits for seconds after a connection or a login that was refused.
    """
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def hold(port: int) -> int:
    """Keep a port bound, 0 for a free one, so that only a server that asks for it gets it; return it.

    Raises:
        OSError: A server listens there already.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        number = int(held.getsockname()[1])
        _kept.append(held.detach())
    while len(_kept) > KEPT:
        os.close(_kept.popleft())
    return number
