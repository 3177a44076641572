# ruff: noqa: SLF001  # reading private attributes is what this module is for
"""Put back messages that have not begun: those of a lost connection, and those of a worker that drains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu.utils import json as kombu_json

from celery_fleet.compat.messages import redelivered
from celery_fleet.compat.queues import list_of
from celery_fleet.delivery.scripts import RESTORE


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
    # kombu prefixes the first key of a script alone.
    prefix = channel.global_keyprefix
    answers: dict[int, Any] = {}
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        script = client.register_script(RESTORE.text)
        for number, (message, tried) in reversed(list(enumerate(held))):
            try:
                key = list_of(message)
                payload = kombu_json.dumps(redelivered(message._raw))  # type: ignore[no-untyped-call]  # typed in part only
            except Exception as exc:  # noqa: BLE001  # the others are to be put back
                answers[number] = exc
                continue
            # The atomic take has a tag for each delivery, so no doubt whose it is.
            certain = tried is None or getattr(message, "list_key", None)
            script(
                keys=[channel.unacked_key, prefix + channel.unacked_index_key, prefix + key],
                args=[message.delivery_tag, payload, "" if certain else repr(tried)],
                client=pipe,
            )
        sent = [number for number in reversed(range(len(held))) if number not in answers]
        answers.update(zip(sent, pipe.execute(raise_on_error=False), strict=True))
    return [answers[number] for number in range(len(held))]
