# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Lists, bindings and purging of queues in kombu's Redis transport (kombu/transport/redis.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport.redis import Channel

from celery_fleet.compat.minors import chosen as minors


def note_queues(
    consumer: Any, is_paused: Callable[[str], bool], arrived: Callable[[Any], object]
) -> None:
    """Set ``queue`` of each message to the queue that it came from. Call this before the consumer starts.

    kombu notes only exchange and routing key, and several queues may be bound to these.

    Args:
        consumer: Celery's consumer.
        is_paused: Whether nothing is fetched from a queue now.
        arrived: Gets a message that such a queue still delivers, because a poll for it was pending.
    """
    if not isinstance(consumer.task_consumer.channel, Channel):
        return
    channel: Any = consumer.task_consumer.channel
    consume = channel.basic_consume

    def basic_consume(
        queue: str, *args: Any, callback: Callable[[Any], object], **options: Any
    ) -> Any:
        def noted(message: Any) -> object:
            message.queue = queue
            return arrived(message) if is_paused(queue) else callback(message)

        return consume(queue, *args, callback=noted, **options)

    channel.basic_consume = basic_consume


def skip_queues(consumer: Any, is_paused: Callable[[str], bool]) -> Callable[[], None]:
    """Poll only the queues of a connection that are not paused; return what to call when others are.

    The consumer keeps its paused queues. To cancel them instead would put a message that a pending poll still brings at
    the wrong end of its queue, and Celery would forget the queues' bindings.
    """
    channel: Any = consumer.task_consumer.channel
    if not isinstance(channel, Channel):
        return lambda: None
    cycle = channel._queue_cycle
    consume = cycle.consume
    cycle.consume = lambda number: [queue for queue in consume(number) if not is_paused(queue)]
    update: Callable[[], None] = channel._update_queue_cycle
    return update


def fanout_queues(app: Any) -> list[str]:
    """Return the worker's queues that are bound to a fanout exchange (celery/app/amqp.py, kombu/entity.py)."""

    def is_fanout(queue: Any) -> bool:
        exchanges = [queue.exchange, *(binding.exchange for binding in queue.bindings)]
        return any(exchange is not None and exchange.type == "fanout" for exchange in exchanges)

    queues = app.amqp.queues.consume_from.values()
    return sorted(str(queue.alias or queue.name) for queue in queues if is_fanout(queue))


def priority_keys(channel: Any, queue: str) -> list[str]:
    """Return the Redis lists that hold a queue's messages, one for each priority step."""
    return [str(channel._q_for_pri(queue, step)) for step in channel.priority_steps]


def empty(channel: Any, queue: str) -> int:
    """Delete a queue's messages of all priorities; return how many there were.

    kombu's queue_purge uses a transaction, which a full Redis refuses; and purging may be the remedy for a full Redis.
    """
    deleted = 0
    for key in priority_keys(channel, queue):
        deleted += int(channel.client.llen(key))
        channel.client.delete(key)
    return deleted


def unbind(channel: Any, exchange: str, queue: str) -> int:
    """Remove a queue's bindings to an exchange; return how many entries there were."""
    regular = channel.keyprefix_queue % exchange
    removed = 0
    for key in filter(None, (regular, minors.kombu.bindings_without_expiry(channel, exchange))):
        # A member consists of routing key, pattern and queue.
        members = [
            member
            for member in channel.client.smembers(key)
            if member.decode().split(channel.sep)[-1] == queue
        ]
        if members:
            removed += int(channel.client.srem(key, *members))
    if not channel.client.exists(regular):
        minors.kombu.forget_deadline(channel, exchange)
    return removed
