"""Redis with kombu's keys. Each method is one command or one script, and so one step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from tests.unit.delivery.model.design import DEATHS


class State(Enum):
    """How far a delivery has come in its process."""

    POPPED = "out of its list, not yet in unacked"
    HELD = "prefetched"
    RUNNING = "its body runs"
    ENDED = "its body has ended"
    BROKEN = "its body died"


@dataclass(frozen=True)
class Message:
    """A message in a list: ``deaths`` is its header, ``number`` says which message it is."""

    number: int
    queue: str
    deaths: int = 0


@dataclass(eq=False)
class Delivery:
    """One delivery of a message. Workers don't see these fields; the model uses them to check its invariants."""

    message: Message
    tag: str
    owner: Any
    state: State = State.HELD
    #: How it left ``unacked``, and who removed it.
    gone: str = ""
    gone_by: Any = None
    #: It was taken from a living process that was cut off for longer than its lease.
    expired: bool = False


@dataclass
class Broker:
    """Lists with the next message at their end, the hash, its index, dead letters, and the clock."""

    now: int = 1000
    lists: dict[str, list[Message]] = field(default_factory=lambda: {"mail": [], "bulk": []})
    unacked: dict[str, Delivery] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)
    parked: list[Message] = field(default_factory=list)

    def push(self, message: Message) -> None:
        """A producer's LPUSH."""
        self.lists[message.queue].insert(0, message)

    def pop(self) -> Message | None:
        """BRPOP over all queues."""
        return next((found.pop() for found in self.lists.values() if found), None)

    def write(self, delivery: Delivery, score: int) -> None:
        """MULTI, ZADD, HSET, as kombu sends them after its pop."""
        self.unacked[delivery.tag] = delivery
        self.index[delivery.tag] = score

    def take(self, owner: object, tag: str, score: int | None) -> Delivery | None:
        """The fetch script: move a message from its list into ``unacked``."""
        message = self.pop()
        if message is None:
            return None
        delivery = Delivery(message, tag or f"m{message.number}", owner)
        self.write(delivery, self.now if score is None else score)
        return delivery

    def ack(self, tag: str, by: object) -> None:
        """ZREM, HDEL."""
        self._leave(tag, "acknowledged", by)

    def restore(self, tag: str, by: object, why: str = "put back", deaths: int = 0) -> bool:
        """The script that puts a message back at the head of its list or parks it; return whether it was there."""
        delivery = self._leave(tag, why, by)
        if delivery is None:
            return False
        message = replace(delivery.message, deaths=delivery.message.deaths + deaths)
        if message.deaths >= DEATHS:
            self.parked.append(message)
        else:
            self.lists[message.queue].append(message)
        return True

    def renew(self, tags: Iterable[str], score: int, existing: bool = True) -> None:
        """ZADD, with XX or without."""
        for tag in tags:
            if tag in self.index or not existing:
                self.index[tag] = score

    def older(self, score: int) -> list[str]:
        """Return tags whose score is not above this one, the oldest first: ZRANGE BYSCORE."""
        return sorted(
            (tag for tag, at in self.index.items() if at <= score), key=self.index.__getitem__
        )

    def _leave(self, tag: str, why: str, by: object) -> Delivery | None:
        self.index.pop(tag, None)
        delivery = self.unacked.pop(tag, None)
        if delivery is not None:
            delivery.gone, delivery.gone_by = why, by
        return delivery
