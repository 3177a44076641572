"""Real Redis servers for tests, and kombu's connections to them with the atomic fetch."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu.transport
import redis
from kombu import Connection, Consumer, Exchange, Queue
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_fleet.delivery.fetch import transport
from scripts.ports import free_port, listens
from tests.fleet import wait_for
from tests.programs import required


class Server:
    """A server, by default without data on disk."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self._argv = [
            *(required("redis-server"), "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(directory), "--save", "", *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.client: redis.Redis = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        self.process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def calls(self) -> dict[str, int]:
        """Return how often each command was called since the statistics were reset."""
        found = self.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): value["calls"] for name, value in found.items()}


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Server]:
    server = Server(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        server.client.close()


def until(look: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait until a function returns something true; return that."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return found


class Consuming:
    """A consumer without an event loop, which keeps what it gets and acknowledges nothing."""

    def __init__(
        self, url: str, *queues: str, no_ack: tuple[str, ...] = (), **options: Any
    ) -> None:
        self.connection: Any = Connection(url, transport_options=options)
        self.channel: Any = self.connection.channel()
        self.got: list[Any] = []
        self.queues = [
            Queue(name, Exchange(name, type="direct"), routing_key=name, no_ack=name in no_ack)
            for name in queues
        ]
        self.consumer: Any = Consumer(
            self.channel, self.queues, on_message=self.got.append, auto_declare=True
        )
        self.consumer.consume()

    def drain(self, number: int = 1, seconds: float = 20) -> list[Any]:
        """Return this many messages as they come."""
        until(lambda: self.turn(0.05) or len(self.got) >= number, seconds)
        found, self.got[:] = self.got[:number], self.got[number:]
        return found

    def turn(self, seconds: float = 0.0) -> None:
        """Run one iteration of the event loop, in which a message may come."""
        try:
            self.connection.drain_events(timeout=seconds)
        except TimeoutError:
            return

    def idle(self) -> None:
        """Run the loop until the channel is idle."""
        until(lambda: self.turn() or self.channel.armed)

    def close(self) -> None:
        self.connection.close()


@contextmanager
def consuming(url: str, *queues: str, **options: Any) -> Iterator[Consuming]:
    consumer = Consuming(url, *queues, **options)
    try:
        yield consumer
    finally:
        consumer.close()


def send(url: str, queue: str, *bodies: Any, **options: Any) -> None:
    """Send messages as any producer does."""
    with Connection(url) as connection:
        producer = connection.Producer()
        exchange = Exchange(queue, type="direct")
        declare = [Queue(queue, exchange, routing_key=queue)]
        for body in bodies:
            producer.publish(body, exchange=exchange, routing_key=queue, declare=declare, **options)


@contextmanager
def installed() -> Iterator[None]:
    """Install the atomic fetch for redis:// during the block."""
    aliases, cache = kombu.transport.TRANSPORT_ALIASES, kombu.transport._transport_cache
    before = dict(aliases)
    transport.install()
    try:
        yield
    finally:
        aliases.update(before)
        cache.clear()


@contextmanager
def redis_server(directory: Path, *options: str, users: str | None = None) -> Iterator[int]:
    """Run a server without TLS, with the users of an ACL file if there is one; yield its port."""
    port = free_port()
    argv: Sequence[str] = (
        *(required("redis-server"), "--port", str(port), "--bind", "127.0.0.1"),
        *("--dir", str(directory), "--save", "", "--appendonly", "no", *options),
    )
    if users is not None:
        path = directory / "users.acl"
        # The observer has rights that no part of a fleet has.
        path.write_text(f"{users}user looker on >looker ~* &* +@all\n")
        argv = (*argv, "--aclfile", str(path))
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

    try:
        wait_for(lambda: listens(port))
        yield port
    finally:
        server.kill()
        server.wait()


def looker(port: int) -> redis.Redis:
    """Return a client that may see everything, for a server with users."""
    found: redis.Redis = redis.Redis(port=port, username="looker", password="looker")
    return found
