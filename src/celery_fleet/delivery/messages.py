"""Messages as kombu keeps them in Redis: which list one belongs to, and what is changed when it goes back.

Standard library only: the hand-back uses this file.
"""

from __future__ import annotations

import secrets
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from celery_fleet.delivery import tags

#: Separates a queue's name from a priority in the name of a list, and the priorities that have a list (kombu's ``sep``
#: and ``priority_steps``).
SEPARATOR = "\x06\x16"
STEPS = (0, 3, 6, 9)


def list_for(
    queue: str,
    raw: Mapping[str, Any],
    separator: str = SEPARATOR,
    steps: Sequence[int] = STEPS,
) -> str:
    """Return the list of a queue that a message belongs to by its priority.

    As kombu does it: ``Channel._get_message_priority``, ``Channel._q_for_pri``.
    """
    try:
        priority = max(0, min(int(raw["properties"]["priority"]), 9))
    except (TypeError, ValueError, KeyError):
        priority = 0
    step = steps[bisect(steps, priority) - 1]
    return f"{queue}{separator}{step}" if step else queue


def list_of(message: Any) -> str:
    """Return the list that a kombu message was taken from.

    The atomic fetch notes the list, and `celery_fleet.compat.queues.note_queues` the queue of any other message.
    """
    known: str | None = getattr(message, "list_key", None)
    channel = message.channel
    return known or list_for(message.queue, message._raw, channel.sep, channel.priority_steps)  # noqa: SLF001  # kombu keeps the sender's message nowhere else


def redelivered(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a message that goes back to its list, marked as kombu does: only where the mappings exist."""
    made = neutral(raw)
    for parent, name in ((made, "headers"), (made.get("properties"), "delivery_info")):
        if isinstance(parent, dict) and isinstance(parent.get(name), Mapping):
            parent[name] = {**parent[name], "redelivered": True}
    return made


def neutral(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a message that no process holds.

    If its delivery tag is one of ours, it gets a new one: a stock worker keeps the tag, and would hold the message
    under another worker's name.
    """
    properties = raw.get("properties")
    if not isinstance(properties, Mapping):
        return dict(raw)
    made = dict(properties)
    if tags.owner_of(str(made.get("delivery_tag"))) is not None:
        made["delivery_tag"] = secrets.token_hex(16)
    return {**raw, "properties": made}
