"""Tags of deliveries: who holds a message, and which owner this process is.

A tag is the field of kombu's hash ``unacked`` and the member of its ``unacked_index``. Stock kombu uses a UUID that
stays with the message. Ours is made for each delivery: ``<node>/<start>/<number>``, such as
``mail@worker1/9f86d081884c7d65/2a``. Each process draws its ``start`` at random, since process IDs repeat after a
boot. Standard library only: the hand-back runs without a release.
"""

from __future__ import annotations

import itertools
import re
import secrets
import socket
from dataclasses import dataclass, field

_OWN = re.compile(r"(?P<node>.+)/(?P<start>[0-9a-f]{16})/(?P<number>[0-9a-f]+)\Z", re.DOTALL)


@dataclass(frozen=True)
class Owner:
    """One start of a node: ``node`` is Celery's node name, ``start`` has 16 hexadecimal digits."""

    node: str
    start: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def prefix(self) -> str:
        """Return the prefix of this owner's tags, which no other owner's tags have."""
        return f"{self.node}/{self.start}/"

    def holds(self, tag: str) -> bool:
        """Return whether a tag is this owner's."""
        found = _OWN.match(tag)
        return found is not None and (found["node"], found["start"]) == (self.node, self.start)


def owner_of(tag: str) -> Owner | None:
    """Return the owner of a tag; None if it is not ours, so a stock worker's."""
    found = _OWN.match(tag)
    return None if found is None else Owner(found["node"], found["start"])


def number_of(tag: str) -> int:
    """Return a tag's number, which tells the order of its owner's deliveries; -1 if the tag is not ours."""
    found = _OWN.match(tag)
    return -1 if found is None else int(found["number"], 16)


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
