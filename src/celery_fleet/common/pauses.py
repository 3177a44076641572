"""Pauses: an operator has told workers to fetch no tasks, or none of a queue, until someone resumes them.

The broker keeps them in the hash `celery_fleet.delivery.keys.PAUSES`, so they outlast crashes, reboots and deploys:

    "all"                   every worker
    "host:worker1"          every worker of a host
    "worker:mail"           a worker on all its hosts
    "worker:mail@worker1"   a worker on one host
    "queue:mail"            a queue, in every worker that consumes it

A newline and the reason follow, so that the pauses of several people don't replace each other. Each value is
``{"since": <Unix time>, "by": "ana", "why": "the provider is down"}``. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from celery_fleet.common.counters import SECOND
from celery_fleet.common.text import shown

ALL, HOST, WORKER, QUEUE = "all", "host", "worker", "queue"
KINDS = (ALL, HOST, WORKER, QUEUE)

#: Bytes of a value that is read, and Unix times after which it is damaged (in the year 2242).
LARGEST = 4096
LATEST = float(1 << 33)


@dataclass(frozen=True)
class Pause:
    """One pause.

    Attributes:
        target: What is paused, as in the hash.
        since: Unix time.
        by: Who paused it; empty if unknown.
        why: The reason that was given; may be empty.
    """

    target: str
    since: float = 0.0
    by: str = ""
    why: str = ""

    @property
    def words(self) -> str:
        """Return what is paused, in words: ``queue mail``."""
        kind, _, name = self.target.partition(":")
        return f"{kind} {shown(name)}" if name else "every worker"

    @property
    def reason(self) -> str:
        """Return who paused it and why: ``by ana: the provider is down``."""
        return ": ".join(filter(None, [f"by {self.by}" if self.by else "", self.why]))

    @property
    def entry(self) -> tuple[str, str]:
        """Return the field and value of the hash."""
        value = asdict(self)
        return f"{value.pop('target')}\n{self.reason}", json.dumps(value)

    def stops(self, node: str, queue: str) -> bool:
        """Return whether a node must not fetch from a queue. A worker's second instance is paused with the worker."""
        kind, _, name = self.target.partition(":")
        worker, _, host = node.partition("@")
        worker = worker.removesuffix(SECOND)
        return name in {
            ALL: ("",),
            HOST: (host,),
            WORKER: (worker, f"{worker}@{host}"),
            QUEUE: (queue,),
        }.get(kind, ())


def target(kind: str, name: str = "") -> str:
    """Return what a pause of this kind is called in the hash."""
    return kind if kind == ALL else f"{kind}:{name}"


def parse(entries: Mapping[Any, Any]) -> list[Pause]:
    """Return the pauses in the broker's hash, the oldest first; a damaged value still pauses its target."""
    found = []
    for field, value in entries.items():
        text = field.decode(errors="replace") if isinstance(field, bytes) else str(field)
        name, _, _ = text.partition("\n")
        if name.partition(":")[0] in KINDS:
            found.append(_one(name, value))
    return sorted(found, key=lambda pause: (pause.since, pause.target))


def _one(name: str, value: Any) -> Pause:
    try:
        made = json.loads(value if len(value) <= LARGEST else "")
        since = float(made["since"])
        if not 0 <= since < LATEST:  # a date can't show another time, and NaN is none
            raise ValueError
        return Pause(name, since, shown(made["by"]), shown(made["why"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Pause(name)


def paused(pauses: Iterable[Pause], node: str, queues: Iterable[str]) -> dict[str, Pause]:
    """Return the queues from which a node must not fetch, each with the oldest pause that says so."""
    every = list(pauses)
    first = ((queue, (one for one in every if one.stops(node, queue))) for queue in queues)
    return {queue: pause for queue, found in first if (pause := next(found, None)) is not None}
