"""The health checks of Redis, on a real server with TLS and the fleet's own access rules."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl, health, settings

from celery_fleet.common import redis_client as health_redis
from celery_fleet.common.pauses import Pause
from celery_fleet.common.redis_client import Client, ClientError, ProtocolError, Server
from celery_fleet.delivery.keys import PAUSES
from celery_fleet.health import checks, host, redis_checks
from celery_fleet.health.result import BAD, GOOD, WARNING
from celery_fleet.health.setup import Setup
from scripts.ports import free_port
from tests.facts import facts
from tests.programs import knows_setinfo
from tests.support.certificates import Authority
from tests.support.redis_server import redis_server
from tests.unit.cli.exporter import documents

PASSWORD = "s3cr3t/of:the@operator"
QUEUES = ["mail", "bulk"]


@dataclass
class Running:
    """A running server and the place of its files."""

    port: int
    directory: Path
    #: Runs a command with all rights.
    admin: Callable[..., Any]

    @property
    def server(self) -> Server:
        ca = str(self.directory / "ca.crt")
        return Server("127.0.0.1", self.port, ca, "operator", PASSWORD)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("redis")
    Authority("fleet").install(directory, "IP:127.0.0.1")
    users = acl.acl("broker", {"operator": PASSWORD}, QUEUES, setinfo=knows_setinfo())
    memory = ("--maxmemory", "100mb", "--maxmemory-policy", "noeviction")
    with redis_server(directory, *memory, users=users, tls=directory) as server:
        yield Running(server.tls_port, directory, server.client.execute_command)


def setup(running: Running, tmp_path: Path, thresholds: Any = None, **celery_more: Any) -> Setup:
    address = {"host": "127.0.0.1", "port": running.port}
    pins = settings.process_settings(
        facts(broker=address, results=address, redis_ca=str(running.directory / "ca.crt")),
        "operator",
        PASSWORD,
    )
    pins["celery"].update(celery_more)
    (tmp_path / "credentials").mkdir(parents=True, exist_ok=True)
    (tmp_path / "credentials/operator.json").write_text(json.dumps(pins))
    return Setup(
        app="shop",
        host="worker1",
        user="nobody",
        interval=300,
        checks=(),
        thresholds=health.merged(thresholds),
        directory=tmp_path,
        root=tmp_path,
        runtime=tmp_path,
        queues=tuple(QUEUES),
        servers={
            kind: {"host": "127.0.0.1", "port": running.port} for kind in ("broker", "results")
        },
        ca=str(running.directory / "ca.crt"),
    )


def test_both_servers_answer(running: Running, tmp_path: Path) -> None:
    found = redis_checks.redis(setup(running, tmp_path))
    assert found.state == GOOD, found
    assert found.text.startswith("broker answers, ")
    assert 0 < found.value["results"]["memory_percent"] < 50
    assert PASSWORD not in str(found)


@pytest.mark.slow
def test_a_cache_is_asked_at_its_own_address(running: Running, tmp_path: Path) -> None:
    one = setup(running, tmp_path)
    there = {"host": "127.0.0.1", "port": running.port}
    well = redis_checks.redis(replace(one, servers={**one.servers, "cache": there}))
    assert (well.state, [*well.value]) == (GOOD, ["broker", "results", "cache"])
    closed = free_port()
    away = {"cache": {**there, "port": closed}}
    found = redis_checks.redis(replace(one, servers={**one.servers, **away}))
    assert (found.state, f"cache 127.0.0.1:{closed}" in found.text) == (BAD, True)


def test_a_cache_beside_replicated_instances_has_no_sentinels(tmp_path: Path) -> None:
    nodes = [{"host": f"redis{number}", "port": 26379} for number in (1, 2, 3)]
    address = {"host": "redis1", "port": 6379, "sentinels": nodes}
    broker, results = ({**address, "name": f"shop-{kind}"} for kind in ("broker", "results"))
    login = settings.process_settings(facts(broker=broker, results=results), "operator", PASSWORD)
    (tmp_path / "operator.json").write_text(json.dumps(login))
    servers = {"cache": {"host": "redis1", "port": 6381}}
    one = documents.setup(tmp_path, login=tmp_path / "operator.json", servers=servers)
    assert len(redis_checks.server(one, "results").sentinels) == 3
    found = redis_checks.server(one, "cache")
    assert (found.address, found.sentinels) == ("redis1:6381", ())


@pytest.mark.parametrize(("lines", "state"), [(["online"], WARNING), ([], BAD)])
def test_missing_replicas_are_named_with_their_units(
    lines: list[str], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = tuple(Server(f"redis{number}", 26379) for number in (1, 2, 3))
    about = {f"slave{number}": f"ip=x,state={one},lag=0" for number, one in enumerate(lines)}
    monkeypatch.setattr(redis_checks, "server", lambda *_: Server("x", 0, sentinels=nodes))
    monkeypatch.setattr(redis_checks, "described", lambda _: ({"used_memory": "1", **about}, 0.1))
    monkeypatch.setattr(redis_checks, "sentinels", lambda _: [])
    found = redis_checks.redis(documents.setup(tmp_path))
    assert found.state == state
    where = "redis@shop-broker and shop-sentinel on the other hosts of Redis"
    assert f"broker has {len(lines)} of 2 replicas; see {where}" in found.text


def test_without_a_login_a_refusal_counts_as_an_answer(running: Running, tmp_path: Path) -> None:
    one = setup(running, tmp_path)
    (tmp_path / "credentials/operator.json").unlink()
    found = redis_checks.redis(one)
    assert (found.state, found.text) == (GOOD, "broker answers, results answers")


def test_nearly_full_memory_only_counts_if_nothing_is_evicted(
    running: Running, tmp_path: Path
) -> None:
    bounds = {"redis_memory_percent": {"warning": 0, "bad": 0.1}}
    found = redis_checks.redis(setup(running, tmp_path, bounds))
    assert found.state == BAD
    assert "broker uses" in found.text
    running.admin("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    try:
        assert redis_checks.redis(setup(running, tmp_path, bounds)).state == GOOD
    finally:
        running.admin("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_another_authority_is_not_trusted(running: Running, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_text(Authority("other").pem)
    pins = {"broker_use_ssl": {"ssl_ca_certs": str(other)}}
    found = redis_checks.redis(setup(running, tmp_path, **pins))
    assert found.state == BAD
    assert "its certificate is not accepted: " in found.text


def test_it_shows_a_certificate_if_redis_asks_for_one(running: Running, tmp_path: Path) -> None:
    running.admin("CONFIG", "SET", "tls-auth-clients", "yes")
    place = running.directory
    pair = {"ssl_certfile": str(place / "host.crt"), "ssl_keyfile": str(place / "host.key")}
    tls = {"ssl_ca_certs": str(place / "ca.crt"), **pair}
    try:
        found = redis_checks.redis(setup(running, tmp_path))
        assert found.state == BAD
        pins = {"broker_use_ssl": tls, "redis_backend_use_ssl": tls}
        assert redis_checks.redis(setup(running, tmp_path, **pins)).state == GOOD
        # A host without the operator's credentials uses its own file.
        about = {"host": "127.0.0.1", "port": running.port}
        bare = replace(
            setup(running, tmp_path / "bare"),
            servers=dict.fromkeys(("broker", "results"), about),
            ca=str(place / "ca.crt"),
        )
        (tmp_path / "bare/credentials/operator.json").unlink()
        assert redis_checks.redis(bare).state == BAD
        client = {"certificate": str(place / "host.crt"), "key": str(place / "host.key")}
        assert redis_checks.redis(replace(bare, client=client)).state == GOOD
    finally:
        running.admin("CONFIG", "SET", "tls-auth-clients", "no")


def test_a_wrong_password_is_reported(running: Running, tmp_path: Path) -> None:
    url = f"rediss://operator:not-the-one@127.0.0.1:{running.port}/0"
    found = redis_checks.redis(setup(running, tmp_path, broker_url=url))
    assert found.state == BAD
    assert "WRONGPASS" in found.text


@pytest.mark.slow
def test_a_server_that_is_down_is_reported(running: Running, tmp_path: Path) -> None:
    url = f"rediss://operator:x@127.0.0.1:{free_port()}/0"
    began = time.monotonic()
    found = redis_checks.redis(setup(running, tmp_path, broker_url=url))
    assert time.monotonic() - began < checks.CHECKS["redis"][1]
    assert (found.state, "Connection refused" in found.text) == (BAD, True)
    # The other one is still asked.
    assert "results" in found.value


@pytest.mark.slow
def test_a_server_that_hangs_times_out(running: Running, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rediss://operator:x@127.0.0.1:{silent.getsockname()[1]}/0"
        began = time.monotonic()
        found = redis_checks.redis(setup(running, tmp_path, broker_url=url))
        assert time.monotonic() - began < 8
    assert (found.state, "no answer: the time ran out" in found.text) == (BAD, True), found


def test_queues_of_all_priorities_are_counted(running: Running, tmp_path: Path) -> None:
    running.admin("LPUSH", "mail", *"12345678")
    # kombu's name for the list of a lower priority.
    running.admin("LPUSH", "mail\x06\x163", "x", "y")
    bounds = {"queue_length": {"warning": 5, "bad": 100}}
    try:
        found = redis_checks.queues(setup(running, tmp_path, bounds))
        assert (found.state, found.text) == (WARNING, "10 tasks wait in mail")
        assert found.value == {"mail": 10, "bulk": 0}
        own = {**bounds, "queues": {"mail": {"bad": 10}}}
        assert redis_checks.queues(setup(running, tmp_path, own)).state == BAD
        other = {**bounds, "queues": {"mail": {"warning": None, "bad": None}}}
        found = redis_checks.queues(setup(running, tmp_path, other))
        assert (found.state, found.text) == (GOOD, "10 tasks wait in 2 queues")
    finally:
        running.admin("DEL", "mail", "mail\x06\x163")


@pytest.mark.parametrize("target", ["queue:mail", "all"])
def test_a_paused_queue_may_grow(running: Running, tmp_path: Path, target: str) -> None:
    running.admin("LPUSH", "mail", *"12345678")
    for by in ("ana", "bo"):
        running.admin("HSET", PAUSES, *Pause(target, 1.0, by).entry)
    bounds = {"queue_length": {"warning": 5, "bad": 100}}
    try:
        found = redis_checks.queues(setup(running, tmp_path, bounds))
        words = Pause(target).words
        assert (found.state, found.text) == (GOOD, f"8 tasks wait in 2 queues; paused: {words}")
        running.admin("LPUSH", "bulk", *"12345678")
        state = redis_checks.queues(setup(running, tmp_path, bounds)).state
        assert state == (GOOD if target == "all" else WARNING)
        # The operator may have older rights.
        running.admin("ACL", "SETUSER", "operator", "-hgetall")
        assert redis_checks.queues(setup(running, tmp_path, bounds)).state == WARNING
    finally:
        running.admin("ACL", "SETUSER", "operator", "+hgetall")
        running.admin("DEL", "mail", "bulk", PAUSES)


def test_dead_letters_are_counted(running: Running, tmp_path: Path) -> None:
    def look(thresholds: Any = None) -> Any:
        return redis_checks.dead_letters(setup(running, tmp_path, thresholds))

    found = look()
    assert (found.state, found.text, found.value) == (GOOD, "0 dead letters", {"number": 0})
    running.admin("ZADD", "fleet:dead-letters:index", "1", "a", "2", "b")
    try:
        found = look()
        assert (found.state, found.value) == (WARNING, {"number": 2})
        assert found.text == "2 dead letters: celery-fleet dead-letters list"
        assert look({"dead_letters": {"bad": 2}}).state == BAD
        assert look({"dead_letters": {"warning": None}}).state == GOOD
    finally:
        running.admin("DEL", "fleet:dead-letters:index")


def test_a_clock_that_differs_from_redis_is_reported(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.clock(setup(running, tmp_path)).state == GOOD
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10)
    found = host.clock(setup(running, tmp_path))
    assert (found.state, "ahead of the broker's host" in found.text) == (WARNING, True)
    monkeypatch.setattr(time, "time", lambda: now() - 100)
    assert host.clock(setup(running, tmp_path)).state == BAD


def test_the_operator_may_ask_no_more_than_its_rights(running: Running) -> None:
    with Client(running.server) as client:
        assert client.ask("PING") == "PONG"
        with pytest.raises(ClientError, match="NOPERM"):
            client.ask("FLUSHALL")
        # The connection stays open.
        assert client.ask("LLEN", "mail") == 0


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b"+no end", b"$99999999\r\n", b""]
)
def test_a_server_that_is_no_redis_is_reported(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        server = Server("127.0.0.1", listener.getsockname()[1])
        with Client(server, 2) as client, pytest.raises((ProtocolError, ConnectionError)):
            client.ask("PING")
        thread.join()


def test_a_url_is_read() -> None:
    found = health_redis.server_of(
        "rediss://operator:a%40b%2F@redis1:6390/0", {"ssl_ca_certs": "/ca.crt"}
    )
    assert found == Server("redis1", 6390, "/ca.crt", "operator", "a@b/")
    assert health_redis.server_of("redis://redis1", None) == Server("redis1", 6379)
    assert "a@b" not in repr(found)
    with pytest.raises(ValueError, match="amqp is not a Redis URL"):
        health_redis.server_of("amqp://x", None)
