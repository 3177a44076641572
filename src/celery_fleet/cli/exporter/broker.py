"""Metrics of the Redis instances, and of the queues on the broker, by commands that only read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from celery_fleet.cli.exporter.samples import MetricSample
from celery_fleet.cli.exporter.table import COMMANDS_PER_SECOND, LONGEST_PAUSE
from celery_fleet.common.redis_client import Client, ClientError, Server, information
from celery_fleet.delivery.keys import DEAD_LETTERS_INDEX, SENT
from celery_fleet.health.redis_checks import lists, replicas
from celery_fleet.health.setup import Setup

#: The end of a message that is kept, in bytes. Its headers and properties are there, after the arguments.
KEPT = 1 << 16
_CHUNK = 1 << 20

#: Commands that `instance` sends at most; one less to an instance without replicas.
COMMANDS_OF_INSTANCE = 3

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)")


class _Client(Client):
    """A client that keeps only the end of a long text, so a message of any size takes little memory."""

    def _text(self, size: int) -> bytes:
        rest = size - KEPT
        while rest > 0:
            rest -= len(self._read(min(rest, _CHUNK)))
        return super()._text(min(size, KEPT))


class ExporterConnection:
    """A connection to an instance that stays open, and is opened again if it was lost.

    `commands` is the number of commands that were sent.
    """

    def __init__(self, server: Callable[[], Server]) -> None:
        self.commands = 0
        self._server = server
        self._client: _Client | None = None

    @property
    def has_replicas(self) -> bool:
        """Whether the instance has replicas, and Sentinels that know which server is the primary."""
        return bool(self._server().sentinels)

    def ask_all(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        """Send several commands at once and return their answers; an error is returned as a ClientError.

        Raises:
            OSError, ClientError: The instance does not answer, or refuses the login.
        """
        while True:
            lost = self._client is not None
            try:
                if self._client is None:
                    self._client = _Client(self._server())
                self.commands += len(commands)
                return self._client.ask_all(commands)
            except (OSError, ClientError) as error:
                self.close()
                # The server may have closed it since the last time. One that hangs would hang again.
                if not lost or not isinstance(error, ConnectionError):
                    raise

    def close(self) -> None:
        """Close the connection until the next command."""
        if self._client is not None:
            self._client.__exit__()
        self._client = None


def instance(kind: str, connection: ExporterConnection) -> Iterator[MetricSample]:
    """Yield whether an instance answers, how fast, how full its memory is, and how many replicas it has.

    Raises:
        OSError, ClientError: It does not answer as it should.
    """
    began = time.monotonic()
    sections = ("memory", *(("replication",) if connection.has_replicas else ()))
    answer, *about = connection.ask_all([("PING",), *(("INFO", name) for name in sections)])
    if isinstance(answer, ClientError):
        raise answer
    seconds = time.monotonic() - began
    yield MetricSample("celery_fleet_redis_up", 1.0, (kind,))
    yield MetricSample("celery_fleet_redis_seconds", seconds, (kind,))
    # Users of services that others run may not ask for this.
    found = {
        name: information(text)
        for name, text in zip(sections, about, strict=True)
        if not isinstance(text, ClientError)
    }
    memory = found.get("memory", {})
    if "used_memory" in memory:
        used = float(memory["used_memory"])
        yield MetricSample("celery_fleet_redis_memory_used_bytes", used, (kind,))
    # One that evicts is always full. Some services don't tell their limit.
    if "maxmemory" in memory and memory.get("maxmemory_policy") == "noeviction":
        limit = float(memory["maxmemory"])
        yield MetricSample("celery_fleet_redis_memory_max_bytes", limit, (kind,))
    if found.get("replication", {}).get("role") == "slave":
        # It was the primary when the connection was opened.
        connection.close()
    elif "replication" in found:
        number = float(replicas(found["replication"]))
        yield MetricSample("celery_fleet_redis_replicas", number, (kind,))


class QueueCollector:
    """Looks at the queues, as often as the number of commands allows.

    Args:
        setup: Names the queues.
        connection: To the broker.
        others: Commands per second that the other parts send.
    """

    def __init__(self, setup: Setup, connection: ExporterConnection, others: float = 0.0) -> None:
        self._lists = lists(setup)
        self._connection = connection
        self._rate = COMMANDS_PER_SECOND - others
        self._next = 0.0
        # For each list that is not empty: which message is at its head, and when that was first seen.
        self._heads: dict[str, tuple[int, float]] = {}

    def __call__(self) -> list[MetricSample] | None:
        """Return the metrics of the queues; None if it is too early to look again.

        Raises:
            OSError, ClientError: The broker does not answer as it should.
        """
        began = time.monotonic()
        if began < self._next:
            return None
        before = self._connection.commands
        try:
            return list(self._look())
        finally:
            pause = (self._connection.commands - before) / self._rate
            self._next = began + min(pause, LONGEST_PAUSE)

    def _look(self) -> Iterator[MetricSample]:
        steps = list(zip(*self._lists.values(), strict=True))
        held, oldest, letters, *there = self._ask(
            [
                ("HLEN", "unacked"),
                ("ZRANGE", "unacked_index", "0", "0", "WITHSCORES"),
                ("ZCARD", DEAD_LETTERS_INDEX),
                *(("EXISTS", *keys) for keys in steps),
            ]
        )
        asked = [key for keys, number in zip(steps, there, strict=True) if number for key in keys]
        lengths = dict(zip(asked, self._ask([("LLEN", key) for key in asked]), strict=True))
        ages = self._ages([key for key, length in lengths.items() if length])
        for queue, keys in self._lists.items():
            waiting = float(sum(lengths.get(key, 0) for key in keys))
            age = max((ages[key] for key in keys if key in ages), default=0.0)
            yield MetricSample("celery_queue_length", waiting, (queue,))
            yield MetricSample("celery_fleet_queue_oldest_seconds", age, (queue,))
        yield MetricSample("celery_fleet_messages_held", float(held))
        lease = max(0.0, time.time() - float(oldest[1])) if oldest else 0.0
        yield MetricSample("celery_fleet_lease_oldest_seconds", lease)
        yield MetricSample("celery_fleet_dead_letters", float(letters))

    def _ages(self, keys: Sequence[str]) -> dict[str, float]:
        """Return the age in seconds of the message at the head of each list, from which workers take the next one."""
        heads: dict[str, tuple[int, float]] = {}
        ages = {}
        for key, item in zip(keys, self._ask([("LINDEX", key, "-1") for key in keys]), strict=True):
            # Without an item the last message was taken in the meantime.
            if item is not None:
                sent, now = sent_at(item), time.time()
                mark, seen = self._heads.get(key, (None, now))
                heads[key] = (hash(item), seen if mark == hash(item) else now)
                ages[key] = max(0.0, now - (heads[key][1] if sent is None else sent))
        self._heads = heads
        return ages

    def _ask(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        answers = self._connection.ask_all(commands) if commands else []
        for answer in answers:
            if isinstance(answer, ClientError):
                raise answer
        return answers


def sent_at(item: str) -> float | None:
    """Return when a message was sent, in Unix time; None if it does not say.

    The message is not decoded. In its texts, such as `argsrepr`, quotation marks have a backslash before them.
    """
    _, _, rest = item.rpartition(f'"{SENT}":')
    found = _NUMBER.match(rest) if rest != item else None
    return float(found[1]) if found else None
