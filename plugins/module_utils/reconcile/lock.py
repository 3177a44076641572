"""One change of a host at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

LOCK = Path("/run/celery-fleet-settle.lock")


@contextlib.contextmanager
def alone(path: Path = LOCK) -> Iterator[None]:
    """Hold the host's lock, so that two runs at once settle one after the other."""
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def undisturbed(path: Path = LOCK) -> Iterator[None]:
    """Look while nobody settles: what is left on the host of a run that was killed may be at it. Writes nothing."""
    with contextlib.ExitStack() as held:
        # Where it is missing, nobody has settled since the host's start.
        with contextlib.suppress(FileNotFoundError):
            fcntl.flock(held.enter_context(open(path)), fcntl.LOCK_SH)
        yield
