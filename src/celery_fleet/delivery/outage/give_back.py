# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Put back messages whose tasks have not begun, of a lost connection or of a worker that drains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu.utils import json as kombu_json

from celery_fleet.delivery.messages import list_of, redelivered
from celery_fleet.delivery.scripts import HEAD, PUT_BACK, run_each


def give_back(consumer: Any, held: Sequence[tuple[Any, float | None]]) -> list[Any]:
    """Put messages back at the head of their queues, the oldest nearest to it.

    Args:
        consumer: Celery's, with a connection.
        held: Messages, oldest first, each with the Unix time of a first attempt whose answer was lost, or None. That
            attempt may have succeeded, and another worker may have the message by now, under the same tag.

    Returns:
        For each message 1 if it was put back, 0 if it was no longer this worker's, or the error: Redis's, or that of
        a message that can't be read.

    Raises:
        Exception: Redis could not be asked, so it is not known what happened.
    """
    channel = consumer.task_consumer.channel
    answers: dict[int, Any] = {}
    calls: dict[int, tuple[list[str], list[str]]] = {}
    for number, (message, tried) in reversed(list(enumerate(held))):
        try:
            names = [channel.unacked_key, channel.unacked_index_key, list_of(message)]
            payload = kombu_json.dumps(redelivered(message._raw))  # type: ignore[no-untyped-call]  # typed in part only
        except Exception as exc:  # noqa: BLE001  # the others are to be put back
            answers[number] = exc
            continue
        # The atomic take gives each delivery its own tag, so there is no doubt whose message it is.
        certain = tried is None or getattr(message, "list_key", None)
        arguments = [message.delivery_tag, payload, HEAD, "" if certain else repr(tried)]
        calls[number] = names, arguments
    with channel.conn_or_acquire() as client:
        answers.update(zip(calls, run_each(client, PUT_BACK, calls.values()), strict=True))
    return [answers[number] for number in range(len(held))]
