"""Create load: many messages at once, or one by one."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .bench_setup import Side, until

PRIORITIES = (0, 3, 6, 9)
#: Seconds between two checks whether all is done. Redis has to answer these too, so there are few.
LOOK = 0.02
#: Range of seconds between two single messages.
BETWEEN = (0.02, 0.06)
#: Seconds that a slice of full load should take, and its minimum and maximum number of messages. There are many short
#: slices: other work on the machine lasts longer, and so affects both sides of a round.
SLICE, LEAST, MOST = 1.0, 100, 4000


def lists(queues: Sequence[str]) -> list[str]:
    """Return kombu's lists of these queues."""
    ends = ("" if number == 0 else f"\x06\x16{number}" for number in PRIORITIES)
    return [f"{queue}{end}" for end in ends for queue in queues]


class Templates:
    """A message for each list, created by Celery itself; further ones are made from it and differ only in their ids."""

    def __init__(self, side: Side, queues: Sequence[str], text: str) -> None:
        app, admin = side.app(), side.client()
        self.found: dict[str, tuple[str, str, str]] = {}
        for priority in PRIORITIES:
            for queue in queues:
                sent = app.send_task(
                    "application.nothing",
                    (text,) if text else (),
                    queue=queue,
                    priority=priority,
                    ignore_result=True,
                )
                name = lists([queue])[PRIORITIES.index(priority)]
                raw = admin.rpop(name).decode()
                tag = raw.split('"delivery_tag": "')[1].split('"')[0]
                self.found[name] = (raw, sent.id, tag)

    def one(self, name: str) -> str:
        """Return a new message for a list."""
        raw, task, tag = self.found[name]
        return raw.replace(task, str(uuid.uuid4())).replace(tag, str(uuid.uuid4()))

    def messages(self, number: int) -> dict[str, list[str]]:
        """Return `number` new messages, spread evenly over the lists."""
        made: dict[str, list[str]] = {name: [] for name in self.found}
        for name, _ in zip(itertools.cycle(self.found), range(number), strict=False):
            made[name].append(self.one(name))
        return {name: found for name, found in made.items() if found}


@dataclass(frozen=True)
class Slice:
    """The result of a slice of full load: tasks, seconds, and processor seconds of Redis and of the workers."""

    tasks: int
    seconds: float
    redis: float
    workers: float

    @property
    def rate(self) -> float:
        """Return tasks per second."""
        return self.tasks / self.seconds


def full_load(side: Side, queues: Sequence[str], templates: Templates, number: int) -> Slice:
    """Push `number` messages to a side at once, and wait until none is left."""
    names, made = lists(queues), templates.messages(number)
    client = side.client()
    redis, workers = side.processor_seconds(), side.workers_seconds()
    with client.pipeline(transaction=False) as pipe:
        for name, items in made.items():
            pipe.lpush(name, *items)
        started = time.monotonic()
        pipe.execute()
    empty = _wait_until_empty(client, names)
    return Slice(
        number,
        empty - started,
        side.processor_seconds() - redis,
        side.workers_seconds() - workers,
    )


def _wait_until_empty(client: Any, names: Sequence[str]) -> float:
    """Return when all lists were empty; a stock worker's message is in no list for a moment, so check twice."""
    first = 0.0

    def is_empty() -> bool:
        nonlocal first
        before, now = first, time.monotonic()
        first = 0.0 if client.exists(*names, "unacked") else before or now
        return bool(first and before)

    until(is_empty, "tasks are left", pause=LOOK)
    return first


def calibrated(sides: Sequence[Side], queues: Sequence[str], templates: Templates) -> int:
    """Return how many messages a slice needs on the faster side; this also warms up the workers."""
    number = LEAST
    while True:
        rate = max(full_load(side, queues, templates, number).rate for side in sides)
        wanted = min(MOST, int(rate * SLICE))
        if number >= min(wanted, MOST) / 2:
            return max(LEAST, wanted)
        number = min(wanted, number * 5)


def one_by_one(
    sides: Sequence[Side],
    queues: Sequence[str],
    number: int,
    send: Callable[[Side, int, str, int], None],
) -> None:
    """Send messages at random moments, each to any queue and priority and to all sides, in alternating order."""
    chance = random.Random(number)  # noqa: S311 - when and where to send needs no secrecy
    order = list(sides)
    for count in range(number):
        queue, priority = chance.choice(queues), chance.choice(PRIORITIES)
        for side in order:
            send(side, count, queue, priority)
            time.sleep(chance.uniform(*BETWEEN))
        order.reverse()


def latencies(sides: Sequence[Side], queues: Sequence[str], number: int) -> dict[str, list[float]]:
    """Return for each side the seconds from before a task is sent until its body starts."""
    apps = {side.take: side.app() for side in sides}
    sent: dict[str, dict[int, float]] = {side.take: {} for side in sides}
    for side in sides:
        side.marks.write_text("")

    def send(side: Side, count: int, queue: str, priority: int) -> None:
        sent[side.take][count] = time.monotonic()
        apps[side.take].send_task(
            "application.mark", (count,), queue=queue, priority=priority, ignore_result=True
        )

    one_by_one(sides, queues, number, send)
    found = {}
    for side in sides:
        until(lambda side=side: len(_marks(side)) >= number, "tasks have not begun", 120)  # type: ignore[misc]  # called at once
        marks = _marks(side)
        found[side.take] = [marks[count] - when for count, when in sent[side.take].items()]
    return found


def _marks(side: Side) -> dict[int, float]:
    lines = [line.split() for line in side.marks.read_text().splitlines()]
    return {int(number): float(when) for number, when in lines}
