"""Tells the fleet's files from those of others that have the same name.

Runs on the host, inside the `reconcile` module, as root.
"""

from __future__ import annotations

import os
from collections.abc import Collection

# Every file that a run puts where others put theirs, too, has this in its first lines.
HEADER = b"Written by Celery Fleet"
_BEGINNING = 300


def is_ours(content: bytes) -> bool:
    """Return whether a file with this content was written by a run."""
    return HEADER in content[:_BEGINNING]


def is_of_others(path: str, listed: Collection[str]) -> bool:
    """Return whether a file or link is there that no run has written.

    Args:
        path: Its path.
        listed: Paths of files and links that runs have written for the application, by its manifest.
    """
    if path in listed:
        return False
    if os.path.islink(path):
        return True
    try:
        with open(path, "rb") as stream:
            return not is_ours(stream.read(_BEGINNING))
    except OSError:
        # It is missing, or it is a socket.
        return False
