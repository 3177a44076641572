"""Kombu's connections to a Redis with the atomic fetch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kombu.transport
from kombu import Connection, Consumer, Exchange, Queue

from celery_fleet.delivery.fetch import transport


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until a function returns something true; return that."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return found


class Consuming:
    """A consumer without an event loop, which keeps what it gets and acknowledges nothing."""

    def __init__(
        self, url: str, *queues: str, no_ack: tuple[str, ...] = (), **options: Any
    ) -> None:
        self.connection: Any = Connection(url, transport_options=options)
        self.channel: Any = self.connection.channel()
        self.got: list[Any] = []
        self.queues = [
            Queue(name, Exchange(name, type="direct"), routing_key=name, no_ack=name in no_ack)
            for name in queues
        ]
        self.consumer: Any = Consumer(
            self.channel, self.queues, on_message=self.got.append, auto_declare=True
        )
        self.consumer.consume()

    def drain(self, number: int = 1, seconds: float = 20) -> list[Any]:
        """Return this many messages as they come."""
        until(lambda: self.turn(0.05) or len(self.got) >= number, seconds)
        found, self.got[:] = self.got[:number], self.got[number:]
        return found

    def turn(self, seconds: float = 0.0) -> None:
        """Run one iteration of the event loop, in which a message may come."""
        try:
            self.connection.drain_events(timeout=seconds)
        except TimeoutError:
            return

    def idle(self) -> None:
        """Run the loop until the channel is idle."""
        until(lambda: self.turn() or self.channel.armed)

    def close(self) -> None:
        self.connection.close()


@contextmanager
def consuming(url: str, *queues: str, **options: Any) -> Iterator[Consuming]:
    consumer = Consuming(url, *queues, **options)
    try:
        yield consumer
    finally:
        consumer.close()


def send(url: str, queue: str, *bodies: Any, **options: Any) -> None:
    """Send messages as any producer does."""
    with Connection(url) as connection:
        producer = connection.Producer()
        exchange = Exchange(queue, type="direct")
        declare = [Queue(queue, exchange, routing_key=queue)]
        for body in bodies:
            producer.publish(body, exchange=exchange, routing_key=queue, declare=declare, **options)


@contextmanager
def installed() -> Iterator[None]:
    """Install the atomic fetch for redis:// during the block."""
    aliases, cache = kombu.transport.TRANSPORT_ALIASES, kombu.transport._transport_cache
    before = dict(aliases)
    transport.install()
    try:
        yield
    finally:
        aliases.update(before)
        cache.clear()
