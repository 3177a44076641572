"""Fixtures: a real Redis with the exporter's user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.settings import (
    process_settings,
)

from celery_fleet.health.setup import Setup
from tests.facts import facts
from tests.programs import knows_setinfo
from tests.support.redis_server import redis_server
from tests.unit.cli.exporter import documents

PASSWORD = "s3cr3t/of:the@exporter"
QUEUES = tuple(f"queue{number}" for number in range(24))


def setup_of(directory: Path, port: int, password: str = PASSWORD) -> Setup:
    """Return the setup of a host that asks a Redis without TLS, which serves as all instances."""
    address = {"host": "127.0.0.1", "port": port}
    login = process_settings(facts(broker=address, results=address), "exporter", password)
    pins = login["celery"]
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        pins[name] = False
    for name in ("broker_url", "result_backend"):
        pins[name] = pins[name].replace("rediss://", "redis://")
    path = directory / "login.json"
    path.write_text(json.dumps(login))
    servers = dict.fromkeys(("broker", "results", "cache"), address)
    return documents.setup(directory, queues=QUEUES, servers=servers, login=path)


@dataclass
class Broker:
    """A running server."""

    port: int
    admin: redis.Redis

    def calls(self) -> dict[str, int]:
        """Return how often the exporter called each command."""
        stats = self.admin.info("commandstats")
        found = {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
        ours = ("exists", "llen", "lindex", "hlen", "zrange", "zcard", "ping", "info", "auth")
        return {name: found.get(name, 0) for name in ours}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    directory = tmp_path_factory.mktemp("redis")
    users = acl.acl("broker", {"exporter": PASSWORD}, QUEUES, knows_setinfo())
    with redis_server(directory, "--maxmemory", "1gb", users=users) as server:
        yield Broker(server.port, server.client)


@pytest.fixture
def broker(server: Broker) -> Broker:
    """Return a server without data and without counts."""
    server.admin.flushall()
    server.admin.config_resetstat()
    return server
