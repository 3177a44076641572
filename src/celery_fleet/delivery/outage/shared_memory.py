"""Share memory between a worker's main process and the processes of its pool, however the pool starts them."""

from __future__ import annotations

import mmap
import os

from celery_fleet.common import identity

#: Begins the environment variables with the paths of the main process's files. A process that was started by spawn
#: inherits these variables, but no memory.
PREFIX = "CELERY_FLEET_SHARED_"


def shared_memory(name: str, size: int) -> mmap.mmap:
    """Return memory of a name that a worker's processes share; it is zero at first.

    The main process creates it before the pool starts. The file exists only in memory, as long as a process has it.

    Raises:
        OSError: The main process has ended.
    """
    variable = PREFIX + name
    if identity.main().pid != os.getpid() and variable in os.environ:
        file = os.open(os.environ[variable], os.O_RDWR)
        try:
            return mmap.mmap(file, size)
        finally:
            os.close(file)
    # It stays open, so that processes that start later can open it.
    file = os.memfd_create(f"celery_fleet_{name}")
    os.ftruncate(file, size)
    os.environ[variable] = f"/proc/{os.getpid()}/fd/{file}"
    return mmap.mmap(file, size)
