"""Make the tags of this process's deliveries (:mod:`celery_fleet.delivery.messages`). Standard library only."""

from __future__ import annotations

import itertools
import socket

from celery_fleet.delivery.messages import Owner


class Tags:
    """Makes the tags of an owner, each once. For one thread."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """Return a tag that no delivery has had."""
        return f"{self.owner.prefix}{next(self._numbers):x}"


_own: Tags | None = None


def begin(node: str) -> Owner:
    """Set this process's node, when its worker is set up; calling it again with the same node changes nothing."""
    global _own
    if _own is None or _own.owner.node != node:
        _own = Tags(Owner(node))
    return _own.owner


def own() -> Tags:
    """Return the maker of this process's tags."""
    global _own
    if _own is None:  # an application started this worker without Celery's program
        _own = Tags(Owner(f"celery@{socket.gethostname()}"))
    return _own


def owner() -> Owner:
    """Return the owner that this process is."""
    return own().owner
