# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Put back messages that have not begun: those of a lost connection, and those of a worker that drains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu.utils import json as kombu_json

from celery_fleet.delivery.messages import list_of, redelivered
from celery_fleet.delivery.run import run_each
from celery_fleet.delivery.scripts import HEAD, PUT_BACK


def give_back(consumer: Any, held: Sequence[tuple[Any, float | None]]) -> list[Any]:
    """Put messages back at the head of their queues, the oldest nearest to it.

    With each comes the Unix time of the first attempt whose answer was lost, None without one: it
    may have succeeded, and somebody else may have the message by now, under the same tag. Returns
    for each 1 where it was put back, 0 where it was no longer this worker's, or the error that kept
    it from being put back, of Redis or of a message that can't be read.

    Raises:
        Exception: where Redis could not be asked, so that it is not known what happened.
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
        # The atomic fetch gives each delivery its own tag, so there is no doubt whose message it is.
        certain = tried is None or getattr(message, "list_key", None)
        arguments = [message.delivery_tag, payload, HEAD, "" if certain else repr(tried)]
        calls[number] = names, arguments
    with channel.conn_or_acquire() as client:
        answers.update(zip(calls, run_each(client, PUT_BACK, calls.values()), strict=True))
    return [answers[number] for number in range(len(held))]
