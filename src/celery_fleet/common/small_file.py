"""Read a small file that another user may have written; standard library only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: The largest accepted size in bytes.
LARGEST = 4 << 20

#: The same for a file with all entries of beat's schedule, such as 20,000 with long names. The exporter, which reads
#: them at the same time, may use 128 MB of memory.
LARGEST_OF_BEAT = 10 << 20

#: What can be raised by parsing and checking a document that another user may have written.
DAMAGED = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),  # numbers without bounds, and lists in lists
)


def content(path: Path, largest: int = LARGEST) -> bytes:
    """Read a small file. Another user may have replaced it with a pipe without a writer, a link, or a huge file.

    Raises:
        OSError, ValueError: It is one of these.
    """
    with open(
        os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb"
    ) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is not a file")
        found = file.read(largest + 1)
    if len(found) > largest:
        raise ValueError(f"{path} is too large")
    return found
