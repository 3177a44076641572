"""Send the load until told to stop.

`python -m load.send --run NAME --seed N [--seconds S] [--long S]… [--rich] [--rate N] [--eta S] [--workers NAME…]`
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from celery import chain, chord
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from load import record, tasks
from load.plan import CHAIN_LINKS, CHORD_HEADERS, ETA, RATE, WORKERS, Send, by_worker, plan

FLUSH = 1.0  # seconds between two writes to the record

#: How to address the queues whose exchanges have other names; tasks use these in turn.
WAYS: Sequence[dict[str, str]] = (
    {"queue": "named", "exchange": "jobs", "routing_key": "job"},
    {"queue": "topic", "routing_key": "media.clip.new"},
)

Row = tuple[Any, ...]


def task_id(run: str, number: int) -> str:
    """Return the id of a task in the record."""
    return f"{run}.{number:06d}"


def refused(task: str, call: Callable[[], Any]) -> bool:
    """Send; return whether a Redis was away for longer than a producer waits (docs/tasks.md, "Sending").

    Whether the broker has stored the message is unknown then: a refused task may run, and none is missed.
    """
    try:
        call()
    except (OperationalError, RedisError, RuntimeError, AttributeError) as error:
        # An OperationalError is for the broker, a RedisError or a RuntimeError for the result store. An AttributeError
        # is kombu's: trying again after a refusal, it may meet a channel that it has closed itself.
        if isinstance(error, RuntimeError) and not isinstance(
            error.__cause__, RedisError | OSError
        ):
            raise
        print(f"{task}: {error}", file=sys.stderr, flush=True)
        return True
    return False


def dispatch(run: str, send: Send) -> list[Row]:
    """Send one task or one chord; return the rows for the record, with refused ones marked."""
    now = time.time()
    own = task_id(run, send.number)
    if send.kind == "chord":
        rows, call = _chord(run, send, now)
    elif send.kind == "chain":
        rows, call = _chain(run, send, now)
    elif send.kind == "relay":
        rows, call = _relay(run, send, now)
    else:
        ready = now + send.delay
        attempts = 2 if send.kind == "stumble" else 1
        rows = [(own, run, send.kind, send.queue, send.seconds, attempts, now, ready, False)]
        task: Any = {"stumble": tasks.stumble, "limited": tasks.limited}.get(send.kind, tasks.nap)
        options: dict[str, Any] = {"countdown": send.delay} if send.delay else {}
        if send.priority:
            options["priority"] = send.priority
        # Tasks that retry are the same in every load.
        words = ["x" * send.size] if send.size and send.kind != "stumble" else []

        def call() -> Any:
            return task.apply_async(
                (send.seconds, *words), task_id=own, queue=send.queue, **options
            )

    if refused(own, call):
        return [(*row[:-1], True) for row in rows]
    if send.kind == "revoked":
        rows += _revoke(run, send, own)
    return rows


def _revoke(run: str, send: Send, task: str) -> list[Row]:
    """Send a task that revokes the one that was just sent."""
    now = time.time()
    own = task_id(run, send.number + 1)

    def call() -> Any:
        return tasks.revoke.apply_async((send.seconds, task), task_id=own, queue=send.queue)

    return [(own, run, "revoke", send.queue, send.seconds, 1, now, now, refused(own, call))]


def _chord(run: str, send: Send, now: float) -> tuple[list[Row], Callable[[], Any]]:
    """Return a chord of short tasks. The time when its body is ready is unknown, so its wait is not counted."""
    names = [task_id(run, send.number + n) for n in range(CHORD_HEADERS + 1)]
    headers = [
        tasks.count.s(send.seconds).set(task_id=name, queue=send.queue) for name in names[:-1]
    ]
    body = tasks.gather.s(send.seconds).set(task_id=names[-1], queue=send.queue)
    rows: list[Row] = [
        (name, run, "count", send.queue, send.seconds, 1, now, now, False) for name in names[:-1]
    ]
    rows.append((names[-1], run, "gather", send.queue, send.seconds, 1, now, None, False))
    return rows, lambda: chord(headers)(body)


def _chain(run: str, send: Send, now: float) -> tuple[list[Row], Callable[[], Any]]:
    """Return a chain of tasks, each sent by the process of the previous one."""
    names = [task_id(run, send.number + n) for n in range(CHAIN_LINKS)]
    links = [tasks.nap.si(send.seconds).set(task_id=name, queue=send.queue) for name in names]
    rows: list[Row] = [
        (name, run, "chain", send.queue, send.seconds, 1, now, None if n else now, False)
        for n, name in enumerate(names)
    ]
    return rows, lambda: chain(*links).apply_async()


def _relay(run: str, send: Send, now: float) -> tuple[list[Row], Callable[[], Any]]:
    """Send a task that sends another one by a named exchange."""
    own, other = (task_id(run, send.number + n) for n in range(2))
    way = WAYS[send.number // 2 % len(WAYS)]
    rows: list[Row] = [
        (own, run, "relay", "warm", 0.0, 1, now, now, False),
        (other, run, "relayed", way["queue"], send.seconds, 1, now, None, False),
    ]
    arguments = (send.seconds, other, way)
    return rows, lambda: tasks.relay.apply_async(arguments, task_id=own, queue="warm")


def main(arguments: Sequence[str]) -> int:
    """Parse the options, send the load, and record what was sent."""
    parser = argparse.ArgumentParser(description="Send the load.")
    parser.add_argument("--run", required=True, help="name of the run; begins the ids of its tasks")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--seconds", type=float, default=600.0, help="at the latest, stop then")
    parser.add_argument("--long", type=float, nargs="*", default=[], help="naps sent at once")
    parser.add_argument("--rich", action="store_true", help="every kind of message: see load.plan")
    parser.add_argument("--rate", type=float, default=RATE, help="tasks a second")
    parser.add_argument("--eta", type=float, default=ETA[1], help="seconds of the longest ETA")
    parser.add_argument("--workers", nargs="*", choices=WORKERS, help="instead: to these kinds")
    options = parser.parse_args(arguments)

    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    rows: list[Row] = []
    began = flushed = time.monotonic()
    if options.workers:
        every = by_worker(options.seed, options.workers, options.rate)
    else:
        every = plan(
            options.seed, options.long, rich=options.rich, rate=options.rate, eta=options.eta
        )
    planned = takewhile(lambda send: send.at < options.seconds, every)
    for send in planned:
        while (early := began + send.at - time.monotonic()) > 0 and not stopping:
            time.sleep(min(early, 0.2))
        if stopping:
            break
        rows += dispatch(options.run, send)
        if time.monotonic() - flushed > FLUSH:
            record.sends(rows)
            rows.clear()
            flushed = time.monotonic()
    record.sends(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
