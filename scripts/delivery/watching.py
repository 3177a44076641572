"""Measure what counting its tasks and writing their history costs a worker, in processor time.

Celery's own requests go through their life here as in a worker, with and without the two, round by round. Only the
processor time of this process is counted, so other work of the machine hardly matters.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.concurrency.base import BasePool
from celery.worker import strategy
from celery.worker.request import Request
from kombu.message import Message

from celery_fleet.compat import requests
from celery_fleet.delivery.keys import SENT
from celery_fleet.worker.history import BATCH, History, HistoryWriter
from celery_fleet.worker.task_counts import Recorder

from .bench_setup import BenchSetupError, Side
from .figures import median

#: Tasks of a round. The history gets full entries, as from a busy worker.
TASKS = 20 * BATCH
#: Bytes that the history may take, as by default.
SIZE = 32 * 2**20


def watching(side: Side, rounds: int) -> str:
    """Return a table of the processor time of a task: not watched, and what counts and history add to it.

    Raises:
        BenchSetupError: Redis has refused the history.
    """
    app = Celery("bench", set_as_current=False)
    task = app.tasks["celery.accumulate"]  # any task, since it is not run
    counts, history = Recorder(), History()
    writer = HistoryWriter("bench@bench", history, side.client("worker", side.results), SIZE)
    create = strategy.create_request_cls

    def class_with(*seen: requests.Seen) -> Any:
        requests.follow(lambda *what: [one(*what) for one in seen])
        made = strategy.create_request_cls if seen else create
        strategy.create_request_cls = create
        return made(Request, task, BasePool(), "bench@bench", None)

    def spent(kind: Any, write: Callable[[], object]) -> float:
        messages = [_message(app, task.name) for _ in range(TASKS)]
        began = time.process_time()
        for number, (message, headers, body) in enumerate(messages, 1):
            options = {"app": app, "task": task, "headers": headers, "body": body, "decoded": True}
            request = kind(message, on_ack=lambda *_: None, **options)
            request.on_accepted(1, time.monotonic())
            request.on_success((False, None, 0.1))
            if number % BATCH == 0:
                write()
        return (time.process_time() - began) / TASKS * 1e6

    kinds = (
        (class_with(), lambda: None),
        (class_with(counts.seen), lambda: None),
        (class_with(counts.seen, history.seen), writer.turn),
    )
    found = [[spent(*kind) for kind in kinds] for _ in range(rounds)]
    if writer.has_gaps:
        raise BenchSetupError("the history could not be written to the result store")
    rows = {
        "not watched": [bare for bare, _, _ in found],
        "the counts add": [counted - bare for bare, counted, _ in found],
        "the history adds": [both - counted for _, counted, both in found],
    }
    lines = [f"| {what} | {median(values, ' µs', 1)} |" for what, values in rows.items()]
    return "\n".join(["| processor time of a worker for a task | |", "|---|---|", *lines])


def _message(app: Any, name: str) -> tuple[Any, dict[str, Any], Any]:
    headers, properties, body, _ = app.amqp.as_task_v2(str(uuid.uuid4()), name)
    headers[SENT] = time.time()
    route = {"routing_key": "queue0"}
    message = Message(body, headers=headers, properties=properties, delivery_info=route)  # type: ignore[no-untyped-call]  # kombu's
    return message, headers, body
