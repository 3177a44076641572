"""Who holds a message: the owner in a delivery's tag, and which owner this process is.

A tag is the field of kombu's hash ``unacked`` and the member of its ``unacked_index``. Stock kombu takes
a UUID that goes with the message for ever; ours is made for each delivery: ``<node>/<start>/<number>``,
such as ``mail@worker1/9f86d081884c7d65/2a``. ``start`` is drawn at random by each process, since process
numbers come again after a boot. Standard library alone: the hand-back runs without a release.
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
    """One start of one node: ``node`` is Celery's node name, ``start`` 16 hexadecimal digits."""

    node: str
    start: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def prefix(self) -> str:
        """What all tags of this owner begin with, and no other's."""
        return f"{self.node}/{self.start}/"

    def holds(self, tag: str) -> bool:
        """Whether a tag is this owner's."""
        found = _OWN.match(tag)
        return found is not None and (found["node"], found["start"]) == (self.node, self.start)


def owner_of(tag: str) -> Owner | None:
    """Who holds it; None where it is no tag of ours, so that of a stock worker."""
    found = _OWN.match(tag)
    return None if found is None else Owner(found["node"], found["start"])


def number_of(tag: str) -> int:
    """Which of its owner's deliveries it is, in the order of taking; -1 where it is no tag of ours."""
    found = _OWN.match(tag)
    return -1 if found is None else int(found["number"], 16)


class Tags:
    """Makes an owner's tags, each once; for one thread."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """A tag that no delivery had before."""
        return f"{self.owner.prefix}{next(self._numbers):x}"


_own: Tags | None = None


def begin(node: str) -> Owner:
    """Say which node this process is, when its worker is set up; again with the same node changes nothing."""
    global _own
    if _own is None or _own.owner.node != node:
        _own = Tags(Owner(node))
    return _own.owner


def own() -> Tags:
    """Return what makes the tags of this process's deliveries."""
    global _own
    if _own is None:  # a worker that an application starts without Celery's own program
        _own = Tags(Owner(f"celery@{socket.gethostname()}"))
    return _own


def owner() -> Owner:
    """Return who this process is in the tags of its deliveries."""
    return own().owner
