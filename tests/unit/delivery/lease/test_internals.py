"""What the lease reads from a real channel, and its own client."""

from __future__ import annotations

import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state as worker_state
from kombu import Connection, Exchange, Queue
from kombu.transport.redis import SentinelChannel
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_fleet.delivery.lease import internals as hold
from celery_fleet.delivery.lease.sweep_scripts import READ
from celery_fleet.delivery.lease.thread import WorkerAccess
from celery_fleet.delivery.outage.internals import held
from celery_fleet.delivery.scripts import Script
from tests.fleet import PASSWORDS
from tests.support.certificates import Authority
from tests.support.redis_server import redis_server
from tests.unit.delivery.holding import INDEX, SEP, Store


@pytest.fixture
def connection(store: Store) -> Iterator[Any]:
    url = f"redis://worker:{PASSWORDS['worker']}@127.0.0.1:{store.port}/0"
    with Connection(url) as made:
        yield made


def worker_of(channel: Any) -> Any:
    return SimpleNamespace(consumer=SimpleNamespace(task_consumer=SimpleNamespace(channel=channel)))


def test_a_closed_channel_is_no_channel(connection: Any) -> None:
    channel = connection.channel()
    assert hold.channel_of(worker_of(channel)) is channel
    assert hold.channel_of(worker_of(None)) is None
    assert hold.channel_of(SimpleNamespace()) is None
    channel.close()
    assert hold.channel_of(worker_of(channel)) is None


def test_held_messages_are_delivered_and_not_acknowledged(connection: Any) -> None:
    channel = connection.channel()
    assert held(channel) == set()
    assert channel._qos is None, "reading must create nothing"
    for tag in "abc":
        channel.qos._quick_append(tag, SimpleNamespace())
    channel.qos._quick_ack("b")
    assert held(channel) == {"a", "c"}
    channel.qos._delivered.clear()


def test_held_messages_can_be_read_while_they_change(connection: Any) -> None:
    channel = connection.channel()
    delivered = channel.qos._delivered
    delivered["stays"] = None
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            delivered[str(number)] = None
            delivered.pop(str(number - 500), None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        assert all("stays" in held(channel) for _ in range(2000))
    finally:
        stop.set()
        thread.join()
        delivered.clear()


class Request:
    """The parts of Celery's Request that are used."""

    def __init__(self, tag: Any, acknowledged: bool = False) -> None:
        self.message = SimpleNamespace(delivery_tag=tag)
        self.acknowledged = acknowledged


def test_running_messages_are_those_of_the_pool() -> None:
    requests = [Request("runs"), Request("waits for a child"), Request("done", True), Request(None)]
    worker_state.active_requests.update(requests[:1] + requests[2:])
    worker_state.reserved_requests.add(requests[1])
    assert hold.running() == {"runs", "waits for a child"}


def test_awaited_messages_are_requested_or_on_their_way() -> None:
    def channel(asked: str | None, fetched: Any) -> Any:
        return SimpleNamespace(awaited=asked, connection=SimpleNamespace(fetched=fetched))

    assert hold.awaited(channel(None, None)) == set()
    assert hold.awaited(channel("asked", SimpleNamespace(tag="taken"))) == {"asked", "taken"}
    assert hold.awaited(SimpleNamespace(connection=SimpleNamespace())) == set()


def test_the_transport_has_the_attributes_that_the_lease_reads() -> None:
    from celery_fleet.delivery.fetch.transport import Channel, Transport

    assert isinstance(Channel.awaited, property)
    assert Transport(SimpleNamespace(transport_options={})).fetched is None


def test_the_client_has_short_timeouts_and_no_retries(connection: Any) -> None:
    channel = connection.channel()
    params = hold.client_of(channel, 1.5).connection_pool.connection_kwargs
    assert (params["socket_timeout"], params["socket_connect_timeout"]) == (1.5, 1.5)
    assert params["retry"].get_retries() == 0
    assert params["health_check_interval"] == 0
    assert params["username"] == "worker"


@pytest.mark.slow
def test_a_call_may_take_longer_than_the_clients_timeout(tmp_path: Path) -> None:
    push = Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    large = (["mail"], [b"x" * 2**26])
    with redis_server(tmp_path) as server, Connection(server.url) as made:
        client = hold.client_of(made.channel(), 1)

        def ask(seconds: float | None) -> list[Any]:
            """Push a message that does not fit into the socket's buffers, to a server that hangs."""
            server.signal(signal.SIGSTOP)
            goes_on = threading.Timer(2, server.signal, [signal.SIGCONT])
            goes_on.start()
            try:
                return hold.run_each_within(client, push, [large], seconds)
            finally:
                goes_on.join()

        assert client.ping()
        assert ask(60) == [1]
        with pytest.raises(RedisTimeoutError):
            ask(None)
        assert ask(60) == [2]


def test_access_to_the_broker_follows_the_worker(store: Store, connection: Any) -> None:
    worker = worker_of(None)
    access = WorkerAccess(worker, 3)
    assert access.broker() is None
    assert (access.connected, access.times) == (False, 0)
    worker.consumer.task_consumer.channel = first = connection.channel()
    broker = access.broker()
    assert broker is not None
    assert broker.run(READ, [INDEX, "unacked"], ["gone"]) == [None]
    assert (access.connected, access.times) == (True, 1)
    used = access._client
    first.close()
    assert access.broker() is broker, "the lease needs no connection of the worker"
    worker.consumer.task_consumer.channel = connection.channel()
    assert access.broker() is not broker
    assert access._client is used
    assert access.times == 2

    # This is the same server, with another address.
    with Connection(f"redis://worker:{PASSWORDS['worker']}@localhost:{store.port}/0") as another:
        worker.consumer.task_consumer.channel = another.channel()
        assert access.broker() is not None
        assert access._client is not used


def test_stock_messages_go_to_the_queues_that_kombu_finds(store: Store, connection: Any) -> None:
    channel = connection.channel()
    exchange = Exchange("orders", type="topic")
    for queue in (Queue("mail", exchange, "new.#"), Queue("bulk", exchange, "old.#")):
        queue(channel).declare()
    broker = hold.broker_of(channel, hold.client_of(channel, 3))
    raw: dict[str, Any] = {"properties": {"priority": 6}}
    assert list(broker.lists(raw, "orders", "new.one")) == [f"mail{SEP}6"]
    assert list(broker.lists({"properties": {}}, "", "mail")) == ["mail"]
    # Without a binding kombu would drop it.
    assert list(broker.lists({"properties": {}}, "orders", "mail")) == ["mail"]
    assert list(broker.lists({"properties": {}}, "nobody's", "mail")) == ["mail"]
    assert list(broker.lists({"properties": {}}, "", "")) == []
    assert (broker.index, broker.unacked) == ("unacked_index", "unacked")
    for key in ("_kombu.binding.orders", "_kombu.binding_permanent.orders"):
        store.redis.delete(key)


@pytest.mark.slow
def test_the_client_uses_the_applications_tls_and_user(tmp_path: Path) -> None:
    Authority("fleet").install(tmp_path, "DNS:localhost")
    users = "user default off\nuser worker on >pw ~* &* +@all\n"
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(tmp_path / "ca.crt")}
    with (
        redis_server(tmp_path, users=users, tls=tmp_path) as server,
        Connection(f"rediss://worker:pw@localhost:{server.tls_port}/0", ssl=tls) as made,
    ):
        ours = hold.client_of(made.channel(), 3)
        assert ours.ping()
        assert ours.acl_whoami() in (b"worker", "worker")


def test_a_sentinels_client_asks_the_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SentinelChannel, "__init__", lambda *_: None)
    channel: Any = SentinelChannel()
    channel.master_name, channel.min_other_sentinels = "main", 1
    info = SimpleNamespace(
        hostname="s1",
        port=26379,
        virtual_host="2",
        userid="worker",
        password="pw",
        credential_provider=None,
        ssl=False,
        alt=["sentinel://s1:26379", "sentinel://s2"],
    )
    channel.connection = SimpleNamespace(client=info, default_port=26379)
    made = hold.client_of(channel, 2)
    pool: Any = made.connection_pool
    assert pool.service_name == "main"
    manager = pool.sentinel_manager
    assert [
        (
            one.connection_pool.connection_kwargs["host"],
            one.connection_pool.connection_kwargs["port"],
        )
        for one in manager.sentinels
    ] == [("s1", 26379), ("s2", 26379)]
    assert pool.connection_kwargs["db"] == 2
    assert pool.connection_kwargs["socket_timeout"] == 2
