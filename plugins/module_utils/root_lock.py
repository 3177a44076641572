"""Locks that only root can take. Any process that can open a file can lock it, and so hold up everyone who waits."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, operation: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold a lock on a file, which is created if it is missing; yield its descriptor.

    Args:
        path: The file.
        operation: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # An earlier version made some that everyone could open.
        os.fchmod(handle, 0o600)
        fcntl.flock(handle, operation)
        yield handle
    finally:
        os.close(handle)
