"""The transport over a real Redis, without a worker."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, bootsteps
from celery.exceptions import ImproperlyConfigured
from kombu import Connection, Consumer, Queue
from kombu.transport import redis as stock
from kombu.transport import resolve_transport
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_fleet.compat import intake
from celery_fleet.delivery import keys, tags
from celery_fleet.delivery.fetch import push_poller, transport
from celery_fleet.delivery.fetch import queue_poller as line
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.messages import owner_of
from celery_fleet.delivery.outage import internals as outage
from celery_fleet.delivery.outage.carry_over import AckCarryOver
from celery_fleet.delivery.outage.pending import Pending
from celery_fleet.worker import steps
from scripts.ports import free_port, listens
from tests.programs import required
from tests.support.redis_server import Server, redis_server
from tests.unit.delivery.consumers import Consuming, consuming, installed, send, until


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(line, "_told", set())
    monkeypatch.setattr(tags, "_own", None)
    for hook in ("ours", "sweep", "keep", "ack_failed", "requeue_failed", "park_raw"):
        monkeypatch.setattr(HOOKS, hook, None)
    tags.begin("w@test")
    with installed():
        yield _server
    _server.client.config_set("maxmemory", "0")
    _server.client.flushall()


@pytest.fixture
def mail(server: Server) -> Iterator[Consuming]:
    with consuming(server.url, "mail") as consumer:
        yield consumer


def receive(connection: Any, got: list[Any], number: int) -> None:
    """Let a connection hand out messages until there are this many."""

    def turn() -> bool:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.05)
        return len(got) == number

    until(turn)


def held(server: Server) -> list[str]:
    """Return the tags in unacked, which must equal those in its index."""
    tags = sorted(tag.decode() for tag in server.client.hkeys("unacked"))
    assert tags == sorted(tag.decode() for tag in server.client.zrange("unacked_index", 0, -1))
    return tags


def bodies(messages: list[Any]) -> list[Any]:
    return [message.payload for message in messages]


# --- fetching ---


def test_the_schemes_select_this_transport(server: Server) -> None:
    assert resolve_transport("redis") is resolve_transport("rediss") is transport.Transport
    assert resolve_transport("sentinel") is transport.SentinelTransport
    assert transport.SentinelTransport.default_port == stock.SentinelTransport.default_port
    with Connection(server.url) as connection:
        assert isinstance(connection.default_channel, transport.Channel)
        assert connection.as_uri().startswith("redis://")


def test_a_message_is_held_under_a_tag_of_its_delivery(server: Server, mail: Consuming) -> None:
    send(server.url, "mail", {"n": 1})
    sent = json.loads(server.client.lindex("mail", 0) or "")
    (message,) = mail.drain()
    assert owner_of(message.delivery_tag) == tags.owner()
    assert message.properties["delivery_tag"] == message.delivery_tag
    assert message.list_key == "mail"
    assert held(server) == [message.delivery_tag]
    # unacked has the sender's own message, which is needed to put it back.
    entry = json.loads(server.client.hget("unacked", message.delivery_tag) or "")
    assert entry == [sent, "", "mail"]
    assert message._raw == sent
    message.ack()
    assert held(server) == []
    assert message.acknowledged


def test_priorities_come_first_and_queues_take_turns(server: Server) -> None:
    for priority in (0, 3, 6, 9):
        for name in ("a", "b"):
            send(server.url, name, *[[name, priority, n] for n in range(2)], priority=priority)
    with consuming(server.url, "a", "b") as consumer:
        got = bodies(consumer.drain(16))
    assert [priority for _, priority, _ in got] == [0] * 4 + [3] * 4 + [6] * 4 + [9] * 4
    assert [name for name, *_ in got] == ["a", "b"] * 8
    assert [number for *_, number in got] == [0, 0, 1, 1] * 4


def test_the_strategy_decides_the_order_of_queues(server: Server) -> None:
    for name in ("b", "a"):
        send(server.url, name, *[name] * 2)
    with consuming(server.url, "b", "a", queue_order_strategy="sorted") as consumer:
        assert bodies(consumer.drain(4)) == ["a", "a", "b", "b"]


def test_no_more_is_fetched_than_the_prefetch_allows(server: Server, mail: Consuming) -> None:
    mail.consumer.qos(prefetch_count=2)
    send(server.url, "mail", 1, 2, 3)
    first, _ = mail.drain(2)
    mail.turn(0.05)
    assert len(held(server)) == 2
    assert server.client.llen("mail") == 1
    first.ack()
    assert bodies(mail.drain()) == [3]


def full_and_armed(server: Server, consumer: Consuming) -> Any:
    """Fill a consumer's prefetch with one message and have Redis watch its queues; return the message."""
    consumer.consumer.qos(prefetch_count=1)
    send(server.url, "mail", 1)
    (message,) = consumer.drain()
    consumer.channel.qos.prefetch_count = 2
    consumer.idle()
    consumer.channel.qos.prefetch_count = 1
    return message


def test_a_push_while_the_prefetch_is_full_keeps_the_connection(server: Server) -> None:
    with consuming(server.url, "mail", "bulk", "more") as consumer:
        message = full_and_armed(server, consumer)
        connection = consumer.channel.client.connection
        socket = connection._sock
        for queue in ("bulk", "more", "mail"):
            send(server.url, queue, queue)
        for _ in range(5):
            consumer.turn(0.02)
        assert connection._sock is socket is not None
        assert not consumer.channel.armed
        message.ack()
        (other,) = consumer.drain()
        other.ack()
        assert connection._sock is socket


def test_a_lost_connection_s_file_descriptor_is_not_read_for_another_one(server: Server) -> None:
    """With greenlets, a task's acknowledgement may open a connection, and free the prefetch, during the wait."""
    with consuming(server.url, "mail", "bulk") as consumer:
        message = full_and_armed(server, consumer)
        connection = consumer.channel.client.connection
        number = connection._sock.fileno()
        server.client.client_kill_filter(_type="normal", skipme=True)
        until(lambda: consumer.turn(0.02) or connection._sock is None)
        consumer.channel.qos.prefetch_count = 2
        consumer.connection.transport.cycle.on_readable(number)
        send(server.url, "bulk", 2)
        assert bodies(consumer.drain()) == [2]
        message.ack()


@pytest.mark.slow
def test_an_idle_worker_sends_less_than_one_command_a_second(server: Server) -> None:
    HOOKS.sweep = lambda channel: None  # kombu's own timer also sends a command, every 100 s
    with consuming(server.url, *"abc") as consumer:
        consumer.idle()
        server.client.config_resetstat()
        begin = time.monotonic()
        turns = 0
        # A machine that stands still for the whole time has not run the timer either.
        while (passed := time.monotonic() - begin) < 3 or turns < 6:
            consumer.turn(0.5)
            turns += 1
        calls = server.calls()
        calls.pop("config|resetstat")
        assert set(calls) == {"exists"}
        assert 1 <= calls["exists"] <= passed / line.NET + 1


def test_a_single_message_costs_one_command(server: Server) -> None:
    HOOKS.sweep = lambda channel: None
    with consuming(server.url, *"abc") as consumer:
        consumer.idle()
        for name in "cab":
            server.client.lpush(name, message_text(name))
            server.client.config_resetstat()
            (message,) = consumer.drain()
            assert consumer.channel.armed
            assert server.calls()["evalsha"] == 1
            message.ack()
            consumer.turn(0.05)
            assert consumer.channel.armed, "its own acknowledgement woke it"


def test_an_idle_worker_gets_no_push_about_other_workers(server: Server) -> None:
    """Their fetches and acknowledgements all write to unacked."""
    HOOKS.sweep = lambda channel: None
    with consuming(server.url, "mail") as idle, consuming(server.url, "bulk") as busy:
        idle.idle()
        send(server.url, "bulk", *range(5))
        for message in busy.drain(5):
            message.ack()
        idle.turn(0.1)
        assert idle.channel.armed


def test_messages_that_came_during_a_task_are_fetched_by_priority(server: Server) -> None:
    """A solo worker's loop stands still during a task."""
    with consuming(server.url, "mail", "bulk") as consumer:
        consumer.consumer.qos(prefetch_count=1)
        send(server.url, "mail", "low", "low", "low", priority=9)
        (message,) = consumer.drain()
        send(server.url, "bulk", "urgent")
        message.ack()
        (message,) = consumer.drain()
        assert message.payload == "urgent"


def test_a_busy_queue_does_not_delay_others(server: Server) -> None:
    with consuming(server.url, "mail", "bulk", "more") as consumer:
        consumer.consumer.qos(prefetch_count=1)
        send(server.url, "mail", *["mail"] * 20)
        for number in range(6):
            (message,) = consumer.drain()
            if number == 2:
                send(server.url, "bulk", "bulk", "bulk", "bulk")
            if number > 2:
                assert message.payload == ("bulk" if number % 2 else "mail")
            message.ack()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_wake_up_is_lost(server: Server, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of all lists are so rare that a lost wake-up would show."""
    monkeypatch.setattr(line, "NET", 120.0)
    monkeypatch.setattr(push_poller, "NET", 120.0)
    chance = random.Random(seed)  # noqa: S311  # no secret
    number = 150
    names = [f"q{n}" for n in range(3)]

    def sender() -> None:
        with Connection(server.url) as connection:
            producer = connection.Producer()
            for n in range(number):
                producer.publish(
                    n, routing_key=chance.choice(names), priority=chance.choice([0, 3, 6, 9])
                )
                time.sleep(chance.choice([0, 0, chance.random() * 0.01]))

    with consuming(server.url, *names) as consumer:
        consumer.idle()
        thread = threading.Thread(target=sender)
        thread.start()
        got = consumer.drain(number, 60)
        thread.join()
        for message in got:
            message.ack()
        assert sorted(bodies(got)) == list(range(number))
    assert held(server) == []


def test_queues_that_are_added_later_cause_pushes_as_well(server: Server, mail: Consuming) -> None:
    mail.idle()
    mail.consumer.add_queue(Queue("later", routing_key="later"))
    mail.consumer.consume()
    assert not mail.channel.armed
    mail.idle()
    server.client.lpush("later", message_text("x"))
    assert bodies(mail.drain()) == ["x"]


def message_text(body: Any) -> str:
    """Return a message as a producer makes it."""
    return json.dumps(
        {
            "body": json.dumps(body),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {},
            "properties": {"delivery_tag": "sent", "delivery_info": {}, "priority": 0},
        }
    )


def test_a_message_of_a_cancelled_queue_is_put_back(server: Server, mail: Consuming) -> None:
    send(server.url, "mail", 1, 2)
    before = server.client.lrange("mail", 0, -1)
    mail.channel.connection.cycle.on_poll_start()
    until(lambda: server.client.llen("mail") == 1)
    mail.consumer.cancel()
    mail.turn(0.05)
    until(lambda: mail.turn() or server.client.lrange("mail", 0, -1) == before)
    assert held(server) == []
    assert mail.got == []


def test_a_channel_that_closes_puts_back_a_message_that_is_on_its_way(server: Server) -> None:
    send(server.url, "mail", 1, 2)
    before = server.client.lrange("mail", 0, -1)
    with consuming(server.url, "mail") as consumer:
        consumer.channel.connection.cycle.on_poll_start()
        until(lambda: server.client.llen("mail") == 1)
        assert consumer.channel._in_poll
    assert server.client.lrange("mail", 0, -1) == before
    assert held(server) == []


# --- putting back ---


def test_a_closing_channel_puts_back_in_order(server: Server) -> None:
    send(server.url, "mail", 1, 2, 3, 4)
    send(server.url, "mail", "low", priority=3)
    with consuming(server.url, "mail") as consumer:
        got = consumer.drain(5)
        got[1].ack()
    assert held(server) == []
    with consuming(server.url, "mail") as consumer:
        again = consumer.drain(4)
        assert bodies(again) == [1, 3, 4, "low"]
        assert [message.headers["redelivered"] for message in again] == [True] * 4
        assert all(message.delivery_info["redelivered"] for message in again)
        assert {m.delivery_tag for m in again}.isdisjoint(m.delivery_tag for m in got)
        # The message has the sender's tag again.
        assert (
            again[0]._raw["properties"]["delivery_tag"] == got[0]._raw["properties"]["delivery_tag"]
        )


def test_a_rejected_message_is_dropped_or_waits_behind_the_others(
    server: Server, mail: Consuming
) -> None:
    """As with stock kombu, a message that is rejected repeatedly does not block the others."""
    send(server.url, "mail", 1, 2)
    mail.consumer.qos(prefetch_count=1)
    (message,) = mail.drain()
    message.reject(requeue=True)
    (other,) = mail.drain()
    assert bodies([other]) == [2]
    other.ack()
    (again,) = mail.drain()
    assert bodies([again]) == [1]
    assert again.headers["redelivered"]
    again.reject()
    assert held(server) == []
    assert server.client.llen("mail") == 0


def test_a_message_that_another_worker_holds_is_neither_acknowledged_nor_put_back(
    server: Server, mail: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    send(server.url, "mail", 1, 2)
    one, two = mail.drain(2)
    server.client.delete("unacked", "unacked_index")
    one.ack()
    assert one.delivery_tag in caplog.text
    assert "no longer held" in caplog.text
    two.reject(requeue=True)
    assert server.client.llen("mail") == 0


def test_stock_kombu_restores_fetched_messages(server: Server, mail: Consuming) -> None:
    """A stock worker applies the visibility timeout also to messages of atomic workers."""
    send(server.url, "mail", "x")
    (message,) = mail.drain()
    original = message._raw["properties"]["delivery_tag"]
    connection = Connection(server.url, transport=stock.Transport)
    channel: Any = connection.channel()
    channel.visibility_timeout = -10
    channel.qos.restore_visible(num=10, interval=1)
    assert held(server) == []
    (item,) = server.client.lrange("mail", 0, -1)
    assert json.loads(item)["properties"]["delivery_tag"] == original
    connection.close()


def test_messages_from_kombus_basic_get_can_be_acknowledged_and_rejected(
    server: Server, mail: Consuming
) -> None:
    send(server.url, "bulk", 1, 2, 3)
    first = mail.channel.basic_get("bulk")
    assert first.list_key is None
    assert held(server) == [first.delivery_tag]
    first.ack()
    assert held(server) == []
    second = mail.channel.basic_get("bulk")
    second.reject(requeue=True)
    assert held(server) == []
    assert server.client.llen("bulk") == 2


@pytest.mark.parametrize("running", [False, True])
def test_closing_while_the_broker_is_away_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, running: bool, server: Server
) -> None:
    """Stock kombu raises an error in close, first with a poll under way, then without a connection."""
    with redis_server(tmp_path) as away:
        consumer = Consuming(away.url, "mail", socket_timeout=5)
        send(away.url, "mail", 1, 2)
        one, two = consumer.drain(2)
        if running:
            HOOKS.keep = lambda channel: [one.delivery_tag]
        else:
            consumer.idle()
        away.stop()
        if not running:
            consumer.channel._poller.forget()
            with pytest.raises((OSError, RedisConnectionError)):
                until(lambda: consumer.turn())
        consumer.close()
        consumer.close()
    assert f"{1 if running else 2} messages can't be put back now" in caplog.text
    assert server.client.ping()
    noted: list[str] = []
    HOOKS.ack_failed = lambda tag, exc: bool(noted.append(tag) or True)
    two.ack()
    assert noted == [two.delivery_tag]
    HOOKS.ack_failed = None
    one._state = "RECEIVED"
    with pytest.raises((OSError, RedisConnectionError, AttributeError)):
        one.ack()


def test_running_tasks_are_not_put_back(server: Server) -> None:
    send(server.url, "mail", 1, 2)
    with consuming(server.url, "mail") as consumer:
        one, _ = consumer.drain(2)
        HOOKS.keep = lambda channel: [one.delivery_tag]
    assert held(server) == [one.delivery_tag]
    assert server.client.llen("mail") == 1


def test_a_connection_that_is_lost_before_it_consumes_keeps_what_it_adopted(server: Server) -> None:
    """The second of two losses in a row: running tasks were given to a channel that never began to consume."""
    send(server.url, "mail", 1, 2)
    with consuming(server.url, "mail") as first:
        one, two = first.drain(2)
        HOOKS.keep = lambda channel: [one.delivery_tag, two.delivery_tag]
    with Connection(server.url) as connection:
        channel = connection.default_channel
        channel.become_ours()
        for message in (one, two):
            outage.adopt(channel, message)
        one.ack()
        assert held(server) == [two.delivery_tag]
    assert held(server) == [two.delivery_tag]
    noted: list[str] = []
    HOOKS.ack_failed = lambda tag, exc: bool(noted.append(tag) or True)
    two.ack()
    assert noted == [two.delivery_tag]


@pytest.mark.parametrize("lost", [True, False])
def test_messages_that_could_not_be_put_back_are_put_back_on_the_next_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    carry = AckCarryOver(Pending(None))
    HOOKS.requeue_failed, HOOKS.keep = carry.requeue_failed, carry.keep
    send(server.url, "mail", 1)
    with consuming(server.url, "mail") as first:
        (one,) = first.drain()
        one_runs = SimpleNamespace(message=one)
        monkeypatch.setattr(outage, "running", lambda: [one_runs])
        monkeypatch.setattr(intake, "take_out", lambda _: [])
        if lost:
            assert carry.lost(SimpleNamespace(task_consumer=first.consumer, hub=None))
        else:
            server.client.set("mail", "no list")
            one.reject(requeue=True)
            server.client.delete("mail")
    if lost:
        one.reject(requeue=True)
    assert held(server) == [one.delivery_tag]
    with Connection(server.url) as connection:
        tasks = SimpleNamespace(channel=connection.default_channel)
        carry.connected(SimpleNamespace(task_consumer=tasks))
    assert held(server) == []
    assert server.client.llen("mail") == 1


def test_a_message_that_redis_refused_is_put_back_on_the_same_connection(server: Server) -> None:
    carry = AckCarryOver(Pending(None))
    HOOKS.requeue_failed, HOOKS.keep = carry.requeue_failed, carry.keep
    send(server.url, "mail", 1)
    with consuming(server.url, "mail") as mail:
        consumer = SimpleNamespace(task_consumer=mail.consumer)
        carry.connected(consumer)
        (one,) = mail.drain()
        server.client.set("mail", "no list")
        one.reject(requeue=True)
        carry.retry(consumer)
        assert held(server) == [one.delivery_tag]
        server.client.delete("mail")
        carry.retry(consumer)
        assert held(server) == []
    assert server.client.llen("mail") == 1


def test_a_message_that_was_acknowledged_on_the_lost_connection_is_not_held_on_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry = AckCarryOver(Pending(None))
    HOOKS.keep = carry.keep
    send(server.url, "mail", 1)
    with consuming(server.url, "mail") as first:
        (one,) = first.drain()
        monkeypatch.setattr(outage, "running", lambda: [SimpleNamespace(message=one)])
        monkeypatch.setattr(intake, "take_out", lambda _: [])
        assert carry.lost(SimpleNamespace(task_consumer=first.consumer, hub=None))
        # Its task ends in a thread, before the connection is closed.
        one.ack()
    with Connection(server.url) as connection:
        channel = connection.default_channel
        carry.connected(SimpleNamespace(task_consumer=SimpleNamespace(channel=channel)))
        assert outage.held(channel) == set()


@pytest.mark.parametrize("end", ["ack", "reject", "requeue"])
@pytest.mark.parametrize("fails", [True, False])
def test_a_message_that_the_next_connection_adopts_while_it_is_acknowledged_leaves_that_as_well(
    server: Server, monkeypatch: pytest.MonkeyPatch, fails: bool, end: str
) -> None:
    """A greenlet waits for the old primary, while the consumer finds the new one."""
    carry = AckCarryOver(Pending(None))
    HOOKS.keep, HOOKS.ack_failed = carry.keep, carry.ack_failed
    HOOKS.requeue_failed = carry.requeue_failed
    send(server.url, "mail", 1)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(consuming(server.url, "mail"))
        second = stack.enter_context(Connection(server.url)).default_channel
        consumer = SimpleNamespace(task_consumer=SimpleNamespace(channel=second))
        (one,) = first.drain()
        monkeypatch.setattr(outage, "running", lambda: [SimpleNamespace(message=one)])
        monkeypatch.setattr(intake, "take_out", lambda _: [])
        run = one.channel.run

        def meanwhile(*args: Any) -> Any:
            assert carry.lost(SimpleNamespace(task_consumer=first.consumer, hub=None))
            carry.connected(consumer)
            assert outage.held(second) == {one.delivery_tag}
            if fails:
                raise RedisConnectionError("of the test")
            return run(*args)

        monkeypatch.setattr(one.channel, "run", meanwhile)
        if end == "ack":
            one.ack()
        else:
            one.reject(requeue=end == "requeue")
        assert outage.held(second) == set()
        carry.retry(consumer)
        assert held(server) == []
    assert server.client.llen("mail") == (end == "requeue")


def test_a_message_that_a_thread_acknowledges_while_it_is_adopted_is_not_held(
    server: Server, mail: Consuming
) -> None:
    send(server.url, "mail", 1)
    (one,) = mail.drain()
    one.ack()
    with Connection(server.url) as connection:
        outage.adopt(connection.default_channel, one)
        assert outage.held(connection.default_channel) == set()


def test_if_the_keep_hook_fails_everything_is_put_back(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(channel: Any) -> list[str]:
        raise ValueError("of the test")

    send(server.url, "mail", 1)
    with consuming(server.url, "mail") as consumer:
        consumer.drain()
        HOOKS.keep = fail
    assert held(server) == []
    assert "of the test" in caplog.text


def test_the_sweep_replaces_kombus(
    server: Server, mail: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []
    HOOKS.sweep = asked.append
    mail.channel.connection.cycle.maybe_restore_messages()
    assert asked == [mail.channel]

    def fail(channel: Any) -> None:
        raise ValueError("of the test")

    HOOKS.sweep = fail
    mail.channel.connection.cycle.maybe_restore_messages()
    assert "of the test" in caplog.text


# --- messages that can't be read ---

RUBBISH = {
    "no JSON": (b"rubbish", "undecodable"),
    "no text": (b"\xff\xfe", "undecodable"),
    "no object": (b"[1, 2, 3]", "malformed"),
    "null": (b"null", "malformed"),
    "no properties": (b'{"a": 1}', "malformed"),
    "no tag": (b'{"body": "", "properties": {}}', "malformed"),
    "odd headers": (
        b'{"body": "", "headers": [1], "properties": {"delivery_tag": "x"}}',
        "malformed",
    ),
    "no base64": (
        b'{"body": "a", "properties": {"delivery_tag": "x", "body_encoding": "base64"}}',
        "malformed",
    ),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_an_unreadable_message_is_set_aside(
    server: Server, mail: Consuming, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    item, reason = RUBBISH[name]
    server.client.lpush("mail", item, message_text("good"))
    assert bodies(mail.drain()) == ["good"]
    assert len(held(server)) == 1
    assert server.client.lrange(keys.UNREADABLE, 0, -1) == [item]
    assert reason in caplog.text
    assert "mail" in caplog.text


def test_an_unreadable_message_is_offered_to_the_dead_letters_first(
    server: Server, mail: Consuming
) -> None:
    parked: list[tuple[Any, ...]] = []
    HOOKS.park_raw = lambda *given: parked.append(given)
    server.client.lpush("mail\x06\x163", b"rubbish")
    send(server.url, "mail", 1, priority=9)
    mail.drain()
    ((channel, fetched, reason, detail),) = parked
    assert channel is mail.channel
    assert fetched.tag in held(server)
    assert (fetched.key, fetched.item, reason) == ("mail\x06\x163", b"rubbish", "undecodable")
    assert "JSONDecodeError" in detail


def test_an_unreadable_message_is_kept_if_the_dead_letters_fail(
    server: Server, mail: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: Any) -> None:
        raise KeyError("of the test")

    HOOKS.park_raw = fail
    server.client.lpush("mail", b"rubbish", message_text(1))
    mail.drain()
    assert server.client.lrange(keys.UNREADABLE, 0, -1) == [b"rubbish"]
    assert "of the test" in caplog.text


def test_an_error_of_the_consumer_does_not_set_the_message_aside(
    server: Server, mail: Consuming
) -> None:
    def fail(message: Any) -> None:
        raise ValueError("of the test")

    mail.consumer.on_message = fail
    send(server.url, "mail", 1)
    with pytest.raises(ValueError, match="of the test"):
        until(lambda: mail.turn(0.05))
    assert len(held(server)) == 1
    assert server.client.exists(keys.UNREADABLE) == 0


# --- falling back to the stock fetch ---


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ack_emulation": False}, "ack_emulation"),
        ({"no_ack": ("mail",)}, "mail has no_ack"),
    ],
)
def test_if_unsure_it_uses_the_stock_fetch(
    server: Server, caplog: pytest.LogCaptureFixture, options: dict[str, Any], why: str
) -> None:
    send(server.url, "nobody", 0)
    with consuming(server.url, "mail", "bulk", **options) as consumer:
        assert not consumer.channel.atomic
        with Connection(server.url) as connection:
            producer = connection.Producer()
            producer.publish(1, routing_key="mail")
            producer.publish(2, routing_key="bulk")
        got = consumer.drain(2)
        assert sorted(bodies(got)) == [1, 2]
        for message in got:
            assert owner_of(message.delivery_tag) is None
            message.ack()
    with consuming(server.url, "mail", **options):
        lines = [r.message for r in caplog.records if "as in stock Celery" in r.message]
    assert len(lines) == 1
    assert why in lines[0]
    assert server.calls().get("brpop")


def test_a_redis_that_is_too_old_is_refused_when_a_queue_is_consumed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "OLDEST_REDIS", (99, 0))
    refused = pytest.raises(ImproperlyConfigured, match="celery_worker_fetch: stock")
    with refused, consuming(server.url, "mail"):
        pass


def test_reply_queues_use_the_stock_fetch_without_a_warning(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Connection(server.url) as connection:
        channel: Any = connection.channel()
        channel.queue_declare("ear", auto_delete=True)
        channel.basic_consume("ear", no_ack=True, callback=print, consumer_tag="1")
        assert not channel.atomic
    assert "stock" not in caplog.text


def test_it_changes_the_way_of_fetching_with_its_queues(server: Server, mail: Consuming) -> None:
    mail.idle()
    mail.consumer.add_queue(Queue("loose", routing_key="loose", no_ack=True))
    mail.consumer.consume()
    assert not mail.channel.atomic
    send(server.url, "mail", 1)
    (message,) = mail.drain()
    assert owner_of(message.delivery_tag) is None
    message.ack()
    assert held(server) == []
    mail.consumer.cancel_by_queue("loose")
    assert mail.channel.atomic
    send(server.url, "mail", 2)
    (message,) = mail.drain()
    assert owner_of(message.delivery_tag) == tags.owner()
    mail.idle()


# --- the connection ---


def test_a_killed_connection_is_reported_and_the_next_one_gets_pushes(
    server: Server, mail: Consuming
) -> None:
    mail.idle()
    for client in server.client.client_list():
        if client["id"] != str(server.client.client_id()):
            server.client.client_kill_filter(_id=client["id"])
    with pytest.raises((OSError, RedisConnectionError)):
        until(lambda: mail.turn(0.05))
    assert not mail.channel.armed
    mail.idle()
    send(server.url, "mail", 1)
    assert bodies(mail.drain()) == [1]


def test_a_redis_that_is_too_old_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "OLDEST_REDIS", (99, 0))
    monkeypatch.setenv("CELERY_FLEET_COMPONENT", "worker")
    send(server.url, "mail", 1)  # a task may send to any queue
    with pytest.raises(SystemExit) as ended, consuming(server.url, "mail"):
        pass
    assert ended.value.code == 78
    assert not server.client.exists("unacked")


def test_other_consumers_use_the_stock_fetch(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would renew their messages, and a child of the pool would make the same tags as its parent."""
    monkeypatch.setattr(HOOKS, "ours", lambda channel: False)
    monkeypatch.setattr(line, "OLDEST_REDIS", (99, 0))
    send(server.url, "mail", 1)
    with consuming(server.url, "mail") as consumer:
        (message,) = consumer.drain()
        assert not consumer.channel.atomic
        assert [owner_of(tag) for tag in held(server)] == [None]
        message.ack()
        assert held(server) == []
    assert caplog.text == ""


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_consumer_step_of_the_application_uses_the_stock_fetch(
    server: Server, before: bool
) -> None:
    """Celery starts it before or after the fleet's own step: their order is that of a set."""

    class Own(bootsteps.ConsumerStep):  # type: ignore[misc]  # Celery ships no types
        def get_consumers(self, channel: Any) -> list[Any]:
            return [Consumer(channel, [Queue("own")], on_message=got.append)]

    app = Celery("shop", set_as_current=False)
    steps._fetch_atomically_for_tasks_only(app)
    (ours,) = app.steps["consumer"]
    for _ in range(2):  # after a lost connection, too
        got: list[Any] = []
        with Connection(server.url) as connection:
            tasks: Any = Consumer(connection, [Queue("mail")], on_message=got.append)
            consumer = SimpleNamespace(connection=connection, task_consumer=tasks)
            for step in (Own, ours) if before else (ours, Own):
                step(consumer).start(consumer)
            tasks.consume()
            for queue in ("mail", "own"):
                connection.Producer().publish(queue, routing_key=queue)
            receive(connection, got, 2)
            fetched = {message.payload: owner_of(message.delivery_tag) for message in got}
            assert fetched == {"mail": tags.owner(), "own": None}
            for message in got:
                message.ack()
    assert held(server) == []


def test_a_new_login_of_redis_py_does_not_lose_a_push(server: Server, mail: Consuming) -> None:
    mail.idle()
    asked: list[bool] = []
    connection = mail.channel.client.connection
    connection._re_auth_token = object()
    connection.re_auth = lambda: asked.append(True)
    mail.channel.maybe_reauth()
    assert asked
    assert not mail.channel.armed


def test_two_channels_of_one_connection(server: Server) -> None:
    """kombu has one callback for each queue: a channel may get messages that another one fetched."""
    with Connection(server.url) as connection:
        first: Any = connection.channel()
        second: Any = connection.channel()
        got: list[Any] = []
        first.basic_consume("mail", no_ack=False, callback=got.append, consumer_tag="1")
        second.basic_consume("mail", no_ack=False, callback=got.append, consumer_tag="2")
        send(server.url, "mail", *range(6))
        receive(connection, got, 6)
        assert len(held(server)) == 6
        assert {message.delivery_tag for message in got} == set(held(server))
        for message in got:
            message.ack()
        assert held(server) == []


def test_a_consumer_without_acknowledgement_on_another_channel(server: Server) -> None:
    with Connection(server.url) as connection:
        first: Any = connection.channel()
        second: Any = connection.channel()
        got: list[Any] = []
        second.basic_consume("mail", no_ack=True, callback=got.append, consumer_tag="2")
        transport = second.connection
        callback = transport._callbacks["mail"]
        second.basic_cancel("2")
        first.basic_consume("mail", no_ack=False, callback=got.append, consumer_tag="1")
        transport._callbacks["mail"] = callback
        send(server.url, "mail", 1)
        receive(connection, got, 1)
        assert held(server) == []


def test_a_process_has_one_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "_own", None)
    assert tags.owner().node.startswith("celery@")
    first = tags.begin("w@here")
    assert first.node == "w@here"
    assert tags.begin("w@here") is first is tags.owner()
    made = {tags.own().next() for _ in range(3)}
    assert len(made) == 3
    assert all(first.holds(tag) for tag in made)


def test_fetching_works_through_a_sentinel(server: Server, tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "sentinel.conf"
    path.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor shop 127.0.0.1 {server.port} 1\n"
    )
    with subprocess.Popen(
        [required("redis-server"), str(path), "--sentinel"], stdout=subprocess.DEVNULL
    ) as sentinel:
        try:
            until(lambda: listens(port))
            url = f"sentinel://127.0.0.1:{port}"
            with consuming(url, "mail", "bulk", master_name="shop") as consumer:
                assert isinstance(consumer.channel, transport.SentinelChannel)
                consumer.idle()
                send(server.url, "bulk", 1, priority=6)
                (message,) = consumer.drain()
                assert held(server) == [message.delivery_tag]
                message.ack()
                assert held(server) == []
        finally:
            sentinel.terminate()
