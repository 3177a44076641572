"""Real Redis servers with the roles' users and the data of a fleet, and the backup program's setup for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.acl import acl

from celery_fleet.delivery.keys import DEAD_LETTERS, DEAD_LETTERS_INDEX
from celery_fleet.system.redis_backup import BackupPlaces
from tests.support.redis_server import looker, redis_servers

PASSWORDS = {user: f"pw-of-{user}" for user in ("worker", "operator", "admin", "backup")}
QUEUES = ["mail", "bulk"]
KINDS = ("broker", "results")


@dataclass
class Instances:
    """Two running servers, by kind."""

    ports: dict[str, int]

    def client(self, kind: str) -> redis.Redis:
        return looker(self.ports[kind])

    def data(self) -> dict[str, dict[bytes, Any]]:
        """Return every key of both with its whole value, and whether it expires."""
        return {kind: content(self.client(kind)) for kind in KINDS}


def content(client: redis.Redis) -> dict[bytes, Any]:
    """Return every key with its type, its value in the server's own form, and whether it expires."""
    return {
        key: (client.type(key), client.dump(key), client.ttl(key) > 0)
        for key in sorted(client.scan_iter())
    }


def fill(instances: Instances) -> None:
    """Write what a fleet at work has: priorities, held messages, ETAs, dead letters, results."""
    broker, results = instances.client("broker"), instances.client("results")
    for key in ("mail", "mail\x06\x163", "mail\x06\x169", "bulk"):
        broker.lpush(key, *(f'{{"body": "{key} {number}"}}' for number in range(50)))
    for number in range(20):
        broker.hset("unacked", f"tag-{number}", f'["message {number}", "", "mail"]')
        # Messages with an ETA are held by a worker until they are due.
        broker.zadd("unacked_index", {f"tag-{number}": 1767322800.25 + number})
    broker.sadd("_kombu.binding.mail", "mail\x06\x16\x06\x16mail")
    broker.hset(DEAD_LETTERS, "id-1", '{"message": "…"}')
    broker.zadd(DEAD_LETTERS_INDEX, {"id-1": 1767322800})
    for number in range(200):
        results.set(f"celery-task-meta-{number}", f'{{"result": {number}}}', ex=86400)
    results.xadd("fleet:history", {"task": "app.add"})


@contextmanager
def running(directory: Path) -> Iterator[Instances]:
    """Run an empty broker and an empty result store with the roles' users."""
    users = {kind: acl(kind, PASSWORDS, QUEUES) for kind in KINDS}
    # Without its delay for further replicas, a snapshot takes no five seconds.
    options = ("--repl-diskless-sync-delay", "0")
    with redis_servers(directory, users, *options) as servers:
        yield Instances({kind: server.port for kind, server in servers.items()})


def places(directory: Path, servers: Instances, **more: Any) -> BackupPlaces:
    """Write the setup of a backup of these instances; return its directories."""
    found = BackupPlaces(directory / "state", directory / "runtime", directory / "credentials")
    for path in (found.state, found.runtime, found.credentials):
        path.mkdir(parents=True, exist_ok=True)
    setup = {
        "format": 1,
        "app": "shop",
        "host": "redis1",
        "flavor": "redis",
        "user": "backup",
        "password": PASSWORDS["backup"],
        "ca": "",
        "client": {},
        "to": "",
        "command": [],
        "keep": 3,
        "encrypt_for": "",
        "ssh_key": "",
        "ssh_known_hosts": "",
        "instances": {
            kind: {"host": "127.0.0.1", "port": port} for kind, port in servers.ports.items()
        },
        **more,
    }
    (found.credentials / "backup.json").write_text(json.dumps(setup))
    return found
