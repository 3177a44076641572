"""Ensures that only one run at a time changes a host, by a lock on a file in /run.

Runs on the host, as root, inside the modules `reconcile` and `remove_application`.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from .. import root_lock

LOCK = Path("/run/celery-fleet-reconcile.lock")


@contextlib.contextmanager
def exclusive(path: Path = LOCK) -> Iterator[None]:
    """Hold the host's lock exclusively, so that simultaneous runs change the host one after the other."""
    with root_lock.held(path):
        yield


@contextlib.contextmanager
def shared(path: Path = LOCK) -> Iterator[None]:
    """Read while no run changes the host: a module of a killed run may still be at work. Writes nothing."""
    with contextlib.ExitStack() as held:
        # If the file is missing, no run has changed the host since it booted.
        with contextlib.suppress(FileNotFoundError):
            fcntl.flock(held.enter_context(open(path)), fcntl.LOCK_SH)
        yield
