"""Every component finds the primary among real servers and Sentinels, whatever has moved or is down."""

from __future__ import annotations

import json
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import redis_roles
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    RedisError as FromHostError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import talk
from celery import Celery
from kombu.transport.redis import SentinelChannel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import SentinelManagedSSLConnection

from celery_fleet.beat.leadership import Leadership
from celery_fleet.cli.commands import redis as redis_command
from celery_fleet.cli.exporter import broker as exporter
from celery_fleet.common.redis_client import Client, ClientError, Server, primaries, server_of
from celery_fleet.compat import broker as compat_broker
from celery_fleet.compat import primary as following
from celery_fleet.config.settings import parse
from celery_fleet.delivery.hand_back import worker_record
from celery_fleet.health import redis_checks
from celery_fleet.health.redis_checks import sentinels
from celery_fleet.health.result import BAD, WARNING
from celery_fleet.health.setup import Setup
from celery_fleet.ops import monitoring
from celery_fleet.supervision import broker
from tests.unit.cli import host

from .failing_over import Load, loaded, settings
from .replicated import HOST, LOGINS, Program, Replicated, replicated

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with replicated(tmp_path_factory.mktemp("redis")) as made:
        yield made
        assert made.refused() == []


@pytest.fixture
def servers(module: Replicated) -> Replicated:
    for one in (*module.servers, *module.sentinels):
        if one.process is None:
            one.start()
        else:
            one.signal(signal.SIGCONT)
    module.until(module.is_whole, "all is as at the beginning", 90)
    return module


def of(servers: Replicated, user: str = "worker") -> Server:
    """Return the broker as the programs with only the standard library read it."""
    pins = settings(user, servers.address(), {"host": "h", "port": 1}, servers.ca)["celery"]
    return server_of(pins["broker_url"], pins["broker_use_ssl"], pins["broker_transport_options"])


def move(servers: Replicated, *, safely: bool = True) -> None:
    """Move the primary as an operator does; `safely` lets replicas have everything first."""
    before = servers.primary()
    if safely:
        assert redis_roles.hand_over(servers.access(before), talk, time.monotonic, time.sleep)
    else:
        servers.ask(servers.sentinels[0], "SENTINEL", "FAILOVER", servers.name)
    servers.until(lambda: servers.primary() is not before, "the primary moves")


def test_only_a_primary_with_a_replica_is_handed_over(servers: Replicated) -> None:
    primary = servers.primary()
    for replica in servers.replicas():
        access = servers.access(replica)
        assert redis_roles.is_connected(redis_roles.replication(access, talk))
        assert not redis_roles.hand_over(access, talk, time.monotonic, time.sleep)
    # Without a Sentinel it stays the primary, and may be written to at once.
    for one in servers.sentinels:
        one.kill()
    access = servers.access(primary)
    with pytest.raises(FromHostError, match="Connection refused"):
        redis_roles.hand_over(access, talk, time.monotonic, time.sleep)
    began = time.monotonic()
    with Client(replace(of(servers), host=HOST, port=primary.port, sentinels=())) as client:
        assert client.ask("RPUSH", "mail", "one") == 1
        assert client.ask("DEL", "mail") == 1
    assert time.monotonic() - began < 10
    for replica in servers.replicas_of(primary):
        replica.kill()
    servers.until(
        lambda: not redis_roles.is_connected(redis_roles.replication(access, talk)),
        "the primary has no replica",
    )
    assert not redis_roles.hand_over(access, talk, time.monotonic, time.sleep)


def test_a_client_asks_one_sentinel_after_the_other(servers: Replicated) -> None:
    where = of(servers)
    assert where.address == servers.name
    port = servers.primary().port
    with Client(where) as client:
        assert client.server.port == port
        assert client.ask("LLEN", "mail") == 0
    servers.sentinels[0].kill()
    servers.sentinels[1].signal(signal.SIGSTOP)
    began = time.monotonic()
    with Client(where) as client:
        assert client.server.port == port
    # A Sentinel that hangs costs its time limit, and one that is down nothing.
    assert 1 <= time.monotonic() - began < 10
    servers.sentinels[2].kill()
    with pytest.raises(ConnectionError) as caught:
        Client(where)
    # It says of each Sentinel why it did not help.
    assert [str(caught.value).count(f":{one.port}: ") for one in servers.sentinels] == [1, 1, 1]


def test_health_says_how_many_sentinels_could_replace_the_primary(servers: Replicated) -> None:
    where = of(servers, "operator")
    assert sentinels(where) == []
    servers.sentinels[0].kill()
    few = f"of 3 Sentinels of {servers.name} answer"
    servers.until(lambda: sentinels(where) == [(WARNING, f"2 {few}")], "one is missed")
    servers.sentinels[1].kill()
    servers.until(
        lambda: sentinels(where) == [(BAD, f"1 {few}, too few to replace its primary")],
        "the majority is missed",
    )
    # An older run has not given the right yet.
    assert sentinels(of(servers, "worker")) == []
    servers.ask(servers.sentinels[2], "ACL", "LOG", "RESET")


def test_a_client_never_takes_a_replica_for_the_primary(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = of(servers)
    [primary] = primaries(where)
    ports = [servers.replicas()[0].port, primary.port]
    found = [replace(primary, port=port) for port in ports]
    monkeypatch.setattr("celery_fleet.common.redis_client.primaries", lambda *_: iter(found))
    with Client(where) as client:
        assert client.server == primary
    del found[1]
    with pytest.raises(ConnectionError, match=f"localhost:{ports[0]} is not the primary"):
        Client(where)
    app = made_app(servers, "operator")
    [endpoint] = compat_broker.endpoints(app)
    trouble = broker.ask_endpoints([endpoint])
    assert trouble == f"{servers.name}: localhost:{ports[0]} is not the primary"


def test_a_sentinel_lets_no_component_change_anything(servers: Replicated) -> None:
    with pytest.raises(ClientError, match="NOPERM"):
        servers.ask(servers.sentinels[0], "SENTINEL", "FAILOVER", servers.name, user="worker")
    with pytest.raises(ClientError, match="NOPERM"):
        servers.ask(servers.servers[0], "REPLICAOF", "NO", "ONE", user="replica")
    for one in (servers.sentinels[0], servers.servers[0]):
        servers.ask(one, "ACL", "LOG", "RESET")


def made_app(servers: Replicated, user: str, wait_replicas: int = 0) -> Any:
    app = Celery("shop", set_as_current=False)
    address = {**servers.address(), "wait_replicas": wait_replicas}
    made = settings(user, address, {"host": "h", "port": 1}, servers.ca)
    app.conf.update(made["celery"])
    return app


@pytest.fixture
def frozen(servers: Replicated) -> Iterator[list[Program]]:
    """Freeze the replicas after everything else is set up; they continue in the end."""
    replicas: list[Program] = []
    yield replicas
    for one in replicas:
        one.signal(signal.SIGCONT)
    good = "min_slaves_good_slaves:2"
    servers.until(
        lambda: good in servers.ask(servers.primary(), "INFO", "replication"), "they have caught up"
    )
    empty(servers)


def empty(servers: Replicated) -> None:
    servers.ask(servers.primary(), "DEL", "mail", user="worker")


def freeze(servers: Replicated, frozen: list[Program]) -> None:
    for one in servers.replicas():
        one.signal(signal.SIGSTOP)
        frozen.append(one)


def test_a_task_only_counts_as_sent_once_a_replica_has_it(
    servers: Replicated, frozen: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SentinelChannel, "connection_class_ssl", None)
    following.install()
    unsafe, safe = made_app(servers, "producer"), made_app(servers, "producer", 1)
    message = {"exchange": "", "routing_key": "mail"}
    with unsafe.connection_for_write() as one, safe.connection_for_write() as two:
        sent = one.default_channel.client
        for connection in (one, two):
            connection.Producer().publish({}, **message)
        assert sent.llen("mail") == 2
        freeze(servers, frozen)
        one.Producer().publish({}, **message)
        with pytest.raises(
            two.connection_errors, match=r"0 of 1 replicas confirmed the task in time|NOREPLICAS"
        ):
            two.Producer().publish({}, **message)
        # The primary has it once, and accepts no other one.
        assert sent.llen("mail") == 4


def test_waiting_costs_little(servers: Replicated, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the median of 500 tasks each, which docs/performance.md has."""
    monkeypatch.setattr(SentinelChannel, "connection_class_ssl", None)
    following.install()
    took: dict[int, list[float]] = {0: [], 1: []}
    with (
        made_app(servers, "producer").connection_for_write() as one,
        made_app(servers, "producer", 1).connection_for_write() as two,
    ):
        producers = {0: one.Producer(), 1: two.Producer()}
        for _ in range(500):
            for replicas, producer in producers.items():
                began = time.perf_counter()
                producer.publish({}, exchange="", routing_key="mail")
                took[replicas].append(time.perf_counter() - began)
    median = {replicas: 1000 * statistics.median(times) for replicas, times in took.items()}
    print(
        f"a task is sent in {median[0]:.2f} ms, and in {median[1]:.2f} ms if it waits for a replica"
    )
    assert median[1] - median[0] < 50


def test_a_beat_waits_for_a_replica_and_sends_nothing_twice(
    servers: Replicated, frozen: list[Program]
) -> None:
    [endpoint] = compat_broker.endpoints(made_app(servers, "beat"))
    client = compat_broker.client(endpoint, 5)
    leader = Leadership(client, "one", replicas=1)
    assert leader.take()
    assert leader.send("entry", "1", "mail", "one", "{}")
    freeze(servers, frozen)
    before = client.llen("mail")
    for _ in range(2):
        with pytest.raises(RedisConnectionError, match="0 of 1 replicas"):
            leader.send("entry", "2", "mail", "two", "{}")
    for one in frozen:
        one.signal(signal.SIGCONT)
    servers.until(
        lambda: any(
            servers.ask(one, "LLEN", "mail", user="worker") == before + 1 for one in frozen
        ),
        "a replica goes on",
    )
    assert leader.send("entry", "2", "mail", "two", "{}")
    assert client.llen("mail") == before + 1
    assert not Leadership(client, "two", replicas=1).send("entry", "3", "mail", "three", "{}")
    leader.give_up()


def test_the_watchdogs_question_follows_the_primary(servers: Replicated) -> None:
    app = made_app(servers, "worker")
    ask = broker.question(app)
    assert broker.name(app) == servers.name
    assert ask() is None
    move(servers)
    servers.until(
        lambda: (
            "min_slaves_good_slaves:0" not in servers.ask(servers.primary(), "INFO", "replication")
        ),
        "the new primary has a replica",
    )
    assert ask() is None
    for one in servers.sentinels:
        one.kill()
    trouble = ask()
    assert trouble is not None
    assert trouble.startswith(f"broker {servers.name}: Sentinel localhost:")


def test_a_primary_without_replicas_does_not_count_as_answering(servers: Replicated) -> None:
    [endpoint] = compat_broker.endpoints(made_app(servers, "worker"))
    for one in servers.replicas():
        one.kill()
    # The primary counts them for min-replicas-max-lag.
    servers.until(
        lambda: "NOREPLICAS" in (broker.ask_endpoints([endpoint], queueing=True) or ""),
        "it refuses to write",
    )
    assert broker.ask_endpoints([endpoint]) is None


def test_pooled_connections_follow_one_that_has_found_a_new_primary(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SentinelChannel, "connection_class_ssl", None)
    # Earlier tests of this process have moved the primary, more often than Sentinels do on their own.
    monkeypatch.setattr(following, "_known", {})
    monkeypatch.setattr(following, "_left", {})
    following.install()
    app = made_app(servers, "worker")
    with app.connection_for_write() as one, app.connection_for_write() as two:
        for connection in (one, two):
            assert connection.default_channel.client.llen("mail") == 0
        before = servers.primary()
        before.signal(signal.SIGSTOP)
        servers.until(lambda: servers.primary() is not before, "the primary moves")
        one.default_channel.client.connection_pool.disconnect()
        assert one.default_channel.client.llen("mail") == 0
        began = time.monotonic()
        assert two.default_channel.client.llen("mail") == 0
        # It did not wait for the frozen server.
        assert time.monotonic() - began < 2


def test_the_operators_monitor_hears_events_from_a_new_primary(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SentinelChannel, "connection_class_ssl", SentinelManagedSSLConnection)
    monkeypatch.setattr(following, "_known", {})
    monkeypatch.setattr(following, "_left", {})
    made = settings("operator", servers.address(), {"host": "h", "port": 1}, servers.ca)
    tally = monitoring.Tally(frozenset())
    watcher = monitoring.Watcher(parse(made, "settings"), {"queues": ["mail"]}, tally)
    listener = monitoring.Listener(parse(made, "settings"), tally)
    listener.start()

    def heard() -> int:
        with made_app(servers, "worker").connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=3)
            sender = made_app(servers, "worker").events.Dispatcher(connection, hostname="w@h")
            sender.send("task-succeeded", uuid="1", runtime=0.1)
        return int(tally.take()["counts"]["succeeded"])

    try:
        servers.until(lambda: watcher.look() is None and heard(), "it listens")
        before = servers.primary()
        before.signal(signal.SIGSTOP)
        servers.until(lambda: servers.primary() is not before, "the primary moves")
        servers.until(lambda: watcher.look() is None, "it sees the workers and queues")
        servers.until(lambda: watcher.look() is None and heard(), "it listens again", 60)
    finally:
        listener.stop()


def test_health_and_the_operators_command_follow(servers: Replicated, tmp_path: Path) -> None:
    results = {"host": "h", "port": 1}
    document = settings("operator", servers.address(), results, servers.ca)
    move(servers)
    setup = Setup.__new__(Setup)
    object.__setattr__(setup, "operator", document)
    where = redis_checks.server(setup, "broker")

    def connected() -> int:
        try:
            with Client(where) as client:
                return client.server.port
        except OSError:
            # On a slow machine the Sentinels name the old primary for a moment.
            return 0

    servers.until(lambda: connected() == servers.primary().port, "the Sentinels name the primary")
    servers.until(
        lambda: redis_checks.replicas(redis_checks.described(where)[0]) == 2,
        "the old primary is a replica",
    )
    connection = exporter.ExporterConnection(partial(redis_checks.server, setup, "broker"))

    def exported() -> float:
        found = {sample.name: sample.value for sample in exporter.instance("broker", connection)}
        return found["celery_fleet_redis_replicas"]

    assert exported() == 2
    servers.replicas()[0].kill()
    servers.until(
        lambda: redis_checks.replicas(redis_checks.described(where)[0]) == 1,
        "the primary has noticed",
    )
    assert exported() == 1
    connection.close()
    address = servers.address()
    instance = {
        "host": address["host"],
        "port": address["port"],
        "unit": "redis@shop-broker.service",
        "acl": "/none",
        "here": True,
        "name": address["name"],
        "sentinels": address["sentinels"],
    }
    there = host.application(tmp_path, redis={"ca": servers.ca, "instances": {"broker": instance}})
    credentials = there.directory / "credentials"
    credentials.mkdir(parents=True, exist_ok=True)
    (credentials / "operator.json").write_text(json.dumps(document))
    login = redis_command.login(there, there.redis["broker"], "operator")
    assert login == redis_command.Login("operator", LOGINS["operator"])
    found = redis_command.located(there, there.redis["broker"])
    assert found.port == servers.primary().port


@pytest.fixture
def load(servers: Replicated, tmp_path: Path) -> Iterator[Load]:
    with loaded(tmp_path, servers) as made:
        yield made


def test_what_a_dead_worker_held_goes_back_to_the_new_primary(
    servers: Replicated, load: Load
) -> None:
    load.start_worker("w1")
    with load.app() as app:
        app.send_task("shop.wait", ("one",), task_id="one")
    record = load.directory / "run-w1"
    servers.until(
        lambda: load.noted("begin") and worker_record.read_begun(record), "it runs, and is recorded"
    )
    load.kill_worker("w1")
    move(servers)
    assert servers.ask(servers.primary(), "LLEN", "mail", user="worker") == 0
    said = load.hand_back("w1")
    assert "handed back 1 task, 1 of them had begun" in said
    assert servers.ask(servers.primary(), "LLEN", "mail", user="worker") == 1
    servers.ask(servers.primary(), "DEL", "mail", user="worker")


def test_results_follow_their_own_primary(servers: Replicated, tmp_path: Path) -> None:
    with (
        replicated(tmp_path / "redis", kind="results", like=servers) as results,
        loaded(tmp_path, servers, results=results) as load,
    ):
        load.start_worker("w1")
        with load.asking() as result:
            assert result() == "5\n"
            results.primary().kill()
            assert result() == "5\n"
        assert results.refused() == []
