"""The exporter may do what it needs on each instance of Redis, and no more, on real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.settings import (
    process_settings,
)

from celery_fleet.cli.exporter import broker
from celery_fleet.cli.exporter.broker import ExporterConnection, QueueCollector
from celery_fleet.delivery.messages import SEPARATOR, STEPS
from celery_fleet.health.redis_checks import server
from tests.facts import facts
from tests.programs import knows_setinfo
from tests.support.redis_server import looker, redis_servers
from tests.unit.cli.exporter import documents

KINDS = ("broker", "results", "cache")
QUEUES = ("mail", "bulk")
PASSWORDS = {"exporter": "e", "redis_exporter": "r", "admin": "a"}

Ports = dict[str, int]


def client(port: int, user: str) -> redis.Redis:
    made: redis.Redis = redis.Redis(port=port, username=user, password=PASSWORDS[user])
    return made


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    users = {kind: acl.acl(kind, PASSWORDS, QUEUES, knows_setinfo()) for kind in KINDS}
    with redis_servers(tmp_path_factory.mktemp("redis"), users) as servers:
        yield {kind: server.port for kind, server in servers.items()}


def refused(port: int) -> list[str]:
    """Return what an instance has refused since the last call."""
    admin = client(port, "admin")
    entries = admin.acl_log()
    admin.acl_log_reset()
    return [str(entry) for entry in entries]


def test_the_exporter_may_run_all_its_commands(ports: Ports, tmp_path: Path) -> None:
    root = looker(ports["broker"])
    for queue in QUEUES:
        for step in STEPS:
            root.lpush(f"{queue}{SEPARATOR}{step}" if step else queue, "x")
    root.hset("unacked", "tag", "x")
    root.zadd("unacked_index", {"tag": 1})
    login = process_settings(
        facts(**{kind: {"host": "127.0.0.1", "port": port} for kind, port in ports.items()}),
        "exporter",
        PASSWORDS["exporter"],
    )
    pins = login["celery"]
    for url, tls in (
        ("broker_url", "broker_use_ssl"),
        ("result_backend", "redis_backend_use_ssl"),
    ):
        pins[url], pins[tls] = pins[url].replace("rediss://", "redis://"), False
    (tmp_path / "login.json").write_text(json.dumps(login))
    setup = documents.setup(
        tmp_path,
        queues=QUEUES,
        login=tmp_path / "login.json",
        servers={kind: {"host": "127.0.0.1", "port": port} for kind, port in ports.items()},
    )
    for kind in KINDS:
        connection = ExporterConnection(partial(server, setup, kind))
        names = {sample.name for sample in broker.instance(kind, connection)}
        assert "celery_fleet_redis_memory_used_bytes" in names
        if kind == "broker":
            samples = QueueCollector(setup, connection)() or []
            found = {(sample.name, *sample.labels): sample.value for sample in samples}
            assert found["celery_queue_length", "mail"] == len(STEPS)
            assert found["celery_fleet_messages_held",] == 1
        connection.close()
        assert refused(ports[kind]) == []


@pytest.mark.parametrize(
    "words",
    [
        ("LPUSH", "mail", "x"),
        ("RPOP", "mail"),
        ("DEL", "mail"),
        ("EVAL", "return 1", "0"),
        ("FUNCTION", "LIST"),
        ("PUBLISH", "/0.celery.pidbox", "x"),
        ("SUBSCRIBE", "/0.celery.pidbox"),
        ("HGETALL", "unacked"),
        ("HLEN", "fleet:dead-letters"),
        ("LLEN", "other"),
        ("LLEN", "mail@worker1.dq2"),
        ("LRANGE", "mail", "0", "-1"),
        ("GET", "celery-task-meta-1"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("CONFIG", "GET", "*"),
        ("CLIENT", "LIST"),
        ("ACL", "LIST"),
        ("FLUSHALL",),
        ("MONITOR",),
    ],
)
def test_the_exporter_may_do_nothing_else(words: tuple[str, ...], ports: Ports) -> None:
    for port in ports.values():
        with pytest.raises(redis.exceptions.NoPermissionError):
            client(port, "exporter").execute_command(*words)
        assert len(refused(port)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_password_the_exporter_has_no_user(kind: str) -> None:
    assert "user exporter" in acl.acl(kind, PASSWORDS, QUEUES)
    assert "exporter" not in acl.acl(kind, {"admin": "a"}, QUEUES)


# --- Debian's exporter of Redis ----------------------------------------------------------------------

# What prometheus-redis-exporter 1.45 (Debian 12) and 1.69 (Debian 13) send with the options of our unit.
ASKED = (
    ("INFO", "ALL"),
    ("SLOWLOG", "LEN"),
    ("SLOWLOG", "GET", "1"),
    ("LATENCY", "LATEST"),
    ("LATENCY", "HISTOGRAM"),
)


def test_debians_exporter_of_redis_may_run_all_its_commands(ports: Ports) -> None:
    for port in ports.values():
        for words in ASKED:
            client(port, "redis_exporter").execute_command(*words)
        assert refused(port) == []


@pytest.mark.parametrize(
    "words",
    [
        # Requests to the exporter may name keys to look at.
        ("GET", "celery-task-meta-1"),
        ("LLEN", "mail"),
        ("LINDEX", "mail", "0"),
        ("TYPE", "mail"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("MEMORY", "USAGE", "mail"),
        ("EVAL", "return 1", "0"),
        ("PUBLISH", "/0.celery.pidbox", "x"),
        ("CONFIG", "GET", "*"),
        ("CLIENT", "LIST"),
        ("SLOWLOG", "RESET"),
        ("LATENCY", "RESET"),
        ("ACL", "LIST"),
        ("MONITOR",),
    ],
)
def test_debians_exporter_of_redis_may_do_nothing_else(
    words: tuple[str, ...], ports: Ports
) -> None:
    for port in ports.values():
        with pytest.raises(redis.exceptions.NoPermissionError):
            client(port, "redis_exporter").execute_command(*words)
        assert len(refused(port)) == 1
