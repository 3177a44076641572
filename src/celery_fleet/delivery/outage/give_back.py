# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Put back the messages of tasks that have not started, after a lost connection or for a draining worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu.utils import json as kombu_json

from celery_fleet.delivery.messages import list_of, redelivered
from celery_fleet.delivery.scripts import HEAD, PUT_BACK, run_each


def claim_of(message: Any) -> str | None:
    """Return the claim on a message whose task was about to begin when Redis did not answer; None if there is none."""
    claim: str | None = getattr(message, "claim", None)
    return claim


def give_back(consumer: Any, held: Sequence[tuple[Any, float | None]]) -> list[Any]:
    """Put messages back at the heads of their queues, so that the oldest comes first.

    Args:
        consumer: Celery's consumer, with a connection.
        held: Messages, oldest first, each with the Unix time of a first attempt without an answer, or None. That
            attempt may have succeeded, and another worker may have the message by now, under the same tag.

    Returns:
        For each message 1 if it was put back, 0 if this worker no longer held it, or the error of
        Redis or of an unreadable message.

    Raises:
        Exception: Redis did not answer, so it is not known which messages were put back.
    """
    channel = consumer.task_consumer.channel
    answers: dict[int, Any] = {}
    calls: dict[int, tuple[list[str], list[str]]] = {}
    for number, (message, tried) in reversed(list(enumerate(held))):
        try:
            names = [channel.unacked_key, channel.unacked_index_key, list_of(message)]
            payload = kombu_json.dumps(redelivered(message._raw))  # type: ignore[no-untyped-call]  # typed in part only
        except Exception as exc:  # noqa: BLE001  # still put the others back
            answers[number] = exc
            continue
        # The atomic fetch gives each delivery its own tag, so it is certain who holds the message.
        certain = tried is None or getattr(message, "list_key", None)
        arguments = [message.delivery_tag, payload, HEAD, "" if certain else repr(tried)]
        claim = claim_of(message)
        if claim is not None:
            arguments.append(claim)
        calls[number] = names, arguments
    with channel.conn_or_acquire() as client:
        answers.update(zip(calls, run_each(client, PUT_BACK, calls.values()), strict=True))
    return [answers[number] for number in range(len(held))]
