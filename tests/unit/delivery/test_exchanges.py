"""Messages that came through a named exchange go back to the queue that they came from, on a real Redis."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Queue
from redis.exceptions import ResponseError

from celery_fleet.compat import intake
from celery_fleet.compat import queues as compat_queues
from celery_fleet.delivery.dead_letters.store import Choice, DeadLetterStore
from celery_fleet.delivery.outage import give_back
from tests.fleet import client
from tests.support.redis_server import Server, redis_server
from tests.unit.delivery.consumers import installed
from tests.unit.delivery.pools import (
    ATOMIC,
    NOTHING,
    SLOTS,
    Shop,
    Worker,
    shop,
    until,
)
from tests.unit.delivery.test_drain_pools import ask, busy

STOCK = {"profile": "at_least_once", "fetch": "stock"}
TAKES = {"stock": STOCK, "atomic": ATOMIC}

#: Binding keys of the queues `mail` and `bulk`: each message goes to both of them.
KEYS = {"direct": ("letter.new", "letter.new"), "topic": ("letter.#", "*.new")}

kinds = pytest.mark.parametrize("kind", KEYS)
takes = pytest.mark.parametrize("take", TAKES)
#: Each kind with each way of fetching; `make test` has each of both once.
pairs = pytest.mark.parametrize(
    ("take", "kind"),
    [
        pytest.param("stock", "direct", marks=pytest.mark.long),
        ("stock", "topic"),
        ("atomic", "direct"),
        pytest.param("atomic", "topic", marks=pytest.mark.long),
    ],
)


def queues_of(kind: str) -> list[Queue]:
    post = Exchange("post", type=kind)
    return [
        Queue(name, post, routing_key=key)
        for name, key in zip(("mail", "bulk"), KEYS[kind], strict=True)
    ]


# --- channels ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path) as made:
        yield made


@contextmanager
def consumer(server: Server, take: str, *queues: Queue) -> Iterator[Any]:
    """Yield a consumer as `give_back` needs it, and the messages that it got."""
    with installed() if take == "atomic" else nullcontext(), Connection(server.url) as connection:
        got: list[Any] = []
        tasks: Any = Consumer(connection.channel(), queues, on_message=got.append)
        made = SimpleNamespace(task_consumer=tasks, got=got, connection=connection)
        compat_queues.note_queues(made, lambda _: False, got.append)
        tasks.consume()
        yield made


def taken(made: Any, number: int) -> list[Any]:
    """Fetch messages, and make kombu forget them."""
    while len(made.got) < number:
        made.connection.drain_events(timeout=20)
    for message in made.got:
        intake.disown(made, message)
    return list(made.got)


def publish(server: Server, kind: str, *bodies: str, **options: Any) -> None:
    queues = queues_of(kind)
    with Connection(server.url) as connection:
        producer = connection.Producer()
        for body in bodies:
            producer.publish(
                body,
                exchange=queues[0].exchange,
                routing_key="letter.new",
                declare=queues,
                **options,
            )


def bodies(server: Server, key: str) -> list[str]:
    """Return the bodies that wait in a list, the next one first."""
    found = [json.loads(item) for item in reversed(server.client.lrange(key, 0, -1))]
    return [one["headers"]["name"] for one in found]


def fill(server: Server, kind: str, *names: str, **options: Any) -> None:
    for name in names:
        publish(server, kind, "", headers={"name": name}, **options)


@kinds
@takes
def test_messages_go_back_to_the_list_that_they_came_from(
    server: Server, kind: str, take: str
) -> None:
    mail, _ = queues_of(kind)
    fill(server, kind, "first", "second")
    fill(server, kind, "third", priority=6)
    with consumer(server, take, mail) as made:
        held = taken(made, 3)
        assert bodies(server, "mail") == []
        assert give_back.give_back(made, [(one, None) for one in held]) == [1, 1, 1]
        assert bodies(server, "mail") == ["first", "second"]
        assert bodies(server, "mail\x06\x166") == ["third"]
    # The other queue still has its own copies, once.
    assert bodies(server, "bulk") == ["first", "second"]
    assert bodies(server, "bulk\x06\x166") == ["third"]
    assert not server.client.exists("unacked", "unacked_index")


def test_each_copy_that_one_worker_fetched_goes_back_to_its_own_queue(server: Server) -> None:
    queues = queues_of("topic")
    fill(server, "topic", "first", "second")
    with consumer(server, "atomic", *queues) as made:
        held = taken(made, 4)
        assert give_back.give_back(made, [(one, None) for one in held]) == [1] * 4
    assert bodies(server, "mail") == bodies(server, "bulk") == ["first", "second"]


@takes
def test_a_message_that_cannot_be_put_back_blocks_no_other(server: Server, take: str) -> None:
    queues = queues_of("topic")
    fill(server, "topic", "first", "second", "third")
    with consumer(server, take, queues[0]) as made:
        held = taken(made, 3)
        held[1]._raw["body"] = object()
        first, second, third = give_back.give_back(made, [(one, None) for one in held])
        assert (first, third) == (1, 1)
        assert isinstance(second, TypeError)
    assert bodies(server, "mail") == ["first", "third"]
    assert server.client.hkeys("unacked") == [held[1].delivery_tag.encode()]
    assert server.client.zcard("unacked_index") == 1


@takes
def test_a_message_whose_list_redis_refuses_is_not_lost(server: Server, take: str) -> None:
    queues = queues_of("topic")
    fill(server, "topic", "first")
    with consumer(server, take, queues[0]) as made:
        held = [(one, None) for one in taken(made, 1)]
        server.client.set("mail", "no list")
        (answer,) = give_back.give_back(made, held)
        assert isinstance(answer, ResponseError)
        assert server.client.hlen("unacked") == server.client.zcard("unacked_index") == 1
        server.client.delete("mail")
        assert give_back.give_back(made, held) == [1]
    assert bodies(server, "mail") == ["first"]


# --- workers ---


DECLARED = """
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast
post = Exchange("post", type={kind!r})
app.conf.task_queues = [
    Queue("mail", post, routing_key={keys[0]!r}),
    Queue("bulk", post, routing_key={keys[1]!r}),
    Broadcast("news"),
    Queue("flash", [binding(post, routing_key="flash"), binding(Exchange("flash", type="fanout"))]),
]
"""


class Post:
    """A shop whose queues are bound to an exchange, and a sender that uses it."""

    def __init__(self, made: Shop, kind: str) -> None:
        self.shop = made
        self.queues = queues_of(kind)
        with (made.fleet.directory / "shop.py").open("a") as code:
            code.write(DECLARED.format(kind=kind, keys=KEYS[kind]))
        self._app = Celery("post", set_as_current=False)
        port = made.fleet.ports["broker"]
        self._app.conf.broker_url = f"redis://looker:looker@127.0.0.1:{port}/0"

    def send(self, number: int, seconds: float = 0.0, task: str = "work") -> list[str]:
        """Send tasks to the exchange; return their ids."""
        sending = {
            "exchange": self.queues[0].exchange,
            "routing_key": "letter.new",
            "declare": self.queues,
        }
        with self._app as app:
            return [
                str(app.send_task(f"shop.{task}", (seconds,), **sending).id) for _ in range(number)
            ]

    def copies(self) -> Counter[str]:
        """Return the ids of the messages in the queue that has no worker."""
        items = self.shop.witness.lrange("bulk", 0, -1)
        return Counter(json.loads(item)["headers"]["id"] for item in items)


@contextmanager
def post(directory: Path, kind: str, delivery: dict[str, Any]) -> Iterator[Post]:
    with shop(directory, delivery) as made:
        yield Post(made, kind)
        assert made.fleet.refused() == []


def begun(made: Post, number: int) -> tuple[Worker, list[str]]:
    """Start a worker with all its slots taken and all other tasks prefetched."""
    worker = made.shop.worker("prefork", SHOP_LATE="yes")
    sent = made.send(number, task="held")
    until(lambda: busy(made.shop, "prefork") and len(made.shop.unacked()) == number)
    # Redis has them as unacked before the worker has read the reply.
    until(lambda: worker.log.count("] received") == number)
    return worker, sent


@pytest.mark.slow
@pairs
def test_a_drain_hands_back_to_the_right_queue(tmp_path: Path, kind: str, take: str) -> None:
    with post(tmp_path, kind, TAKES[take]) as made:
        worker, sent = begun(made, 6)
        worker.terminate()
        until(lambda: len(made.shop.unacked()) == SLOTS)
        made.shop.go()
        assert worker.wait() == 0, worker.log
        # kombu's last poll may fetch one that was handed back.
        assert worker.record["handed_back"] >= len(sent) - SLOTS, worker.log
        assert worker.record["seconds"] < 60
        assert made.shop.account(sent) == NOTHING, worker.log
        assert len(made.shop.queued()) == len(sent) - SLOTS
        assert made.copies() == dict.fromkeys(sent, 1)
        assert made.shop.unacked() == set()
        assert "wait to be handed back" not in worker.log


@pytest.mark.slow
@pairs
def test_a_pause_hands_back_to_the_right_queue(tmp_path: Path, kind: str, take: str) -> None:
    with post(tmp_path, kind, TAKES[take]) as made:
        worker, sent = begun(made, 6)
        standing = ask(made.shop, "fleet_pause", seconds=300)
        assert (standing["handed_back"], standing["held"]) == (len(sent) - SLOTS, 0), worker.log
        made.shop.go()
        assert ask(made.shop, "fleet_resume")["state"] == "consuming"
        until(lambda: len(made.shop.ledger.ended) == len(sent))
        assert made.shop.account(sent) == NOTHING
        assert made.copies() == dict.fromkeys(sent, 1)


@pytest.mark.slow
@pairs
def test_a_lost_connection_is_survived(tmp_path: Path, kind: str, take: str) -> None:
    with post(tmp_path, kind, TAKES[take]) as made:
        worker, sent = begun(made, 6)
        for name in ("normal", "pubsub"):
            made.shop.witness.execute_command("CLIENT", "KILL", "TYPE", name, "SKIPME", "yes")
        until(lambda: worker.log.count("mingle: all alone") == 2)
        made.shop.go()
        until(lambda: len(made.shop.ledger.ended) == len(sent))
        until(lambda: made.shop.unacked() == set())
        assert worker.process.poll() is None, worker.log
        if take == "atomic":  # stock kombu also puts back running tasks, and to all queues
            assert made.shop.account(sent) == NOTHING, worker.log
            assert made.copies() == dict.fromkeys(sent, 1)


@pytest.mark.slow
@pairs
def test_an_unknown_task_becomes_a_dead_letter(tmp_path: Path, kind: str, take: str) -> None:
    letters = {"dead_letters": True, "unknown_delay": 0.3, "unknown_for": 6.0}
    with post(tmp_path, kind, {**TAKES[take], **letters}) as made:
        worker = made.shop.worker("prefork")
        (sent,) = made.send(1, task="none")
        store = DeadLetterStore(client(made.shop.fleet.ports["broker"], "operator"))
        until(lambda: store.count() == 1)
        (letter,) = store.choose(Choice(), False)
        assert (letter.id, letter.queue, letter.reason) == (sent, "mail", "unknown")
        # Meanwhile other workers could fetch it, but only from its own queue.
        assert worker.log.count("is not known to this worker") > 1
        assert made.copies() == {sent: 1}
        until(lambda: made.shop.unacked() == set())
        assert "can't be parked" not in worker.log


@pytest.mark.slow
@takes
@pytest.mark.parametrize("queue", ["news", "flash"])
def test_a_worker_refuses_a_fanout_exchange(tmp_path: Path, queue: str, take: str) -> None:
    with post(tmp_path, "topic", TAKES[take]) as made:
        command = ("celery", "-A", "shop", "worker", "-n", "w@test", "-c", "1")
        process = made.shop.fleet.start(*command, "-Q", f"mail,{queue}")
        try:
            assert process.wait(60) == 78
        finally:
            process.kill()
        (line,) = (one for one in made.shop.fleet.log().splitlines() if "fanout" in one)
        assert line.startswith(f"celery_fleet: this worker can't consume {queue}: ")
        assert "Traceback" not in made.shop.fleet.log()
