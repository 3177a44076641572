"""Make the tags of this process's deliveries (:mod:`celery_fleet.delivery.messages`). Standard library only."""

from __future__ import annotations

import itertools
import socket

from celery_fleet.delivery.messages import Owner


class Tags:
    """Creates unique tags for an owner. Use it in one thread only."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """Return a tag that no delivery has had before."""
        return f"{self.owner.prefix}{next(self._numbers):x}"


_own: Tags | None = None


def begin(node: str) -> Owner:
    """Set this process's node when its worker is set up. Calling it again with the same node changes nothing."""
    global _own
    if _own is None or _own.owner.node != node:
        _own = Tags(Owner(node))
    return _own.owner


def own() -> Tags:
    """Return the object that creates this process's tags."""
    global _own
    if _own is None:  # an application started this worker without Celery's program
        _own = Tags(Owner(f"celery@{socket.gethostname()}"))
    return _own


def owner() -> Owner:
    """Return this process as an owner of deliveries."""
    return own().owner
