"""Messages as kombu keeps them in Redis: who holds one, which list it belongs to, and how it goes back.

A tag is a field of kombu's hash ``unacked`` and a member of its ``unacked_index``. Stock kombu uses a UUID that stays
with the message. The fleet creates a tag for each delivery: ``<node>/<start>/<number>``, such as
``mail@worker1/9f86d081884c7d65/2a``. Each process chooses its ``start`` at random, because process IDs repeat after a
boot. Standard library only: the hand-back runs without a release.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """Return the owner of a tag; None if a stock worker created it."""
    found = _OWN.match(tag)
    return None if found is None else Owner(found["node"], found["start"])


def number_of(tag: str) -> int:
    """Return a tag's number, which gives the order of its owner's deliveries; -1 if a stock worker created it."""
    found = _OWN.match(tag)
    return -1 if found is None else int(found["number"], 16)


@dataclass(frozen=True)
class FetchedMessage:
    """A message as a worker fetched it: the list's item, its tag in ``unacked``, and the list that it came from.

    The tag is empty if the message is no longer in ``unacked``.
    """

    item: bytes | str
    tag: str
    key: str


#: kombu's ``sep``, which separates a queue from a priority in a list's name, and its ``priority_steps``, the priorities
#: that have a list.
SEPARATOR = "\x06\x16"
STEPS = (0, 3, 6, 9)


def list_for(
    queue: str,
    raw: Mapping[str, Any],
    separator: str = SEPARATOR,
    steps: Sequence[int] = STEPS,
) -> str:
    """Return the list of a queue to which a message of some priority belongs.

    kombu does the same in ``Channel._get_message_priority`` and ``Channel._q_for_pri``.
    """
    try:
        priority = max(0, min(int(raw["properties"]["priority"]), 9))
    except (TypeError, ValueError, KeyError):
        priority = 0
    step = steps[bisect(steps, priority) - 1]
    return f"{queue}{separator}{step}" if step else queue


def list_of(message: Any) -> str:
    """Return the list that a kombu message was fetched from.

    The atomic fetch records the list. For other messages, `celery_fleet.compat.queues.note_queues` records the queue.
    """
    known: str | None = getattr(message, "list_key", None)
    channel = message.channel
    return known or list_for(message.queue, message._raw, channel.sep, channel.priority_steps)  # noqa: SLF001  # kombu keeps the sender's message nowhere else


def redelivered(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a message that goes back to its list, marked as redelivered if it has kombu's mappings."""
    made = neutral(raw)
    for parent, name in ((made, "headers"), (made.get("properties"), "delivery_info")):
        if isinstance(parent, dict) and isinstance(parent.get(name), Mapping):
            parent[name] = {**parent[name], "redelivered": True}
    return made


def neutral(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a message without a tag of the fleet, so that no process claims it.

    A tag that the fleet created is replaced: a stock worker keeps a message's tag, and would hold the message under
    another worker's name.
    """
    properties = raw.get("properties")
    if not isinstance(properties, Mapping):
        return dict(raw)
    made = dict(properties)
    if owner_of(str(made.get("delivery_tag"))) is not None:
        made["delivery_tag"] = secrets.token_hex(16)
    return {**raw, "properties": made}
