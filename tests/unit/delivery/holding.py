"""A real Redis with the roles' users, and what kombu's workers leave in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl

from celery_fleet.delivery.lease.sweep import Broker
from celery_fleet.delivery.scripts import Script, run_each
from tests.fleet import PASSWORDS, QUEUES, client
from tests.programs import knows_setinfo
from tests.support.redis_server import redis_server

INDEX, UNACKED = "unacked_index", "unacked"
SEP = "\x06\x16"


class Store:
    """The broker of a test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.redis = client(port, "worker")
        self.admin = client(port, "admin")
        self.calls: list[Script] = []

    @property
    def now(self) -> float:
        """Return the time of Redis's clock."""
        seconds, micros = self.redis.time()
        return float(seconds) + float(micros) / 1e6

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self.calls.append(script)
        self.redis.script_load(script.text)
        return self.redis.evalsha(script.sha, len(keys), *keys, *args)

    def run_each(
        self, script: Script, calls: Iterable[Any], seconds: float | None = None
    ) -> list[Any]:
        self.calls.append(script)
        return run_each(self.redis, script, calls)

    def broker(self, **changes: Any) -> Broker:
        def lists(raw: dict[str, Any], exchange: str, routing_key: str) -> list[str]:
            priority = raw["properties"].get("priority", 0)
            return [f"{routing_key}{SEP}{priority}" if priority else routing_key]

        given: dict[str, Any] = {
            "run": self.run,
            "run_each": self.run_each,
            "index": INDEX,
            "unacked": UNACKED,
            "lists": lists,
        }
        return Broker(**{**given, **changes})

    def hold(self, tag: str, age: float = 0.0, name: str = "", **changes: Any) -> str:
        """Have a worker hold a message for some seconds; return the message as it was sent."""
        raw = message(name or tag, **changes)
        self.hold_entry(tag, f'[{raw}, "", "mail"]', age)
        return raw

    def hold_entry(self, tag: str, entry: str | bytes, age: float = 0.0) -> None:
        self.redis.hset(UNACKED, tag, entry)
        self.redis.zadd(INDEX, {tag: self.now - age})

    def age(self, tag: str) -> float:
        score = self.redis.zscore(INDEX, tag)
        assert score is not None, f"{tag} is not in unacked_index"
        return self.now - score

    def held(self) -> set[str]:
        """Return the tags in unacked_index."""
        return {tag.decode() for tag in self.redis.zrange(INDEX, 0, -1)}

    def names(self, key: str = "mail") -> list[str]:
        """Return the names of a list's messages, the next one first."""
        items = client(self.port, "operator").lrange(key, 0, -1)
        return [json.loads(item)["headers"]["id"] for item in reversed(items)]

    def refused(self) -> list[Any]:
        found = self.admin.acl_log()
        self.admin.acl_log_reset()
        return list(found)


def message(name: str, **properties: Any) -> str:
    return json.dumps(
        {
            "body": "W10=",
            "headers": {"id": name, "task": "shop.add"},
            "properties": {
                "delivery_tag": "the sender's",
                "delivery_info": {"exchange": "", "routing_key": "mail"},
                **properties,
            },
        }
    )


@contextmanager
def serving(directory: Path) -> Iterator[Store]:
    users = acl.acl("broker", PASSWORDS, QUEUES, setinfo=knows_setinfo())
    with redis_server(directory, users=users) as server:
        yield Store(server.port)


def clear(store: Store) -> None:
    store.admin.config_set("maxmemory", 0)
    store.admin.config_set("min-replicas-to-write", 0)
    keys: list[str] = [INDEX, UNACKED]
    for queue in QUEUES:
        keys += [queue, *(f"{queue}{SEP}{step}" for step in (3, 6, 9))]
    store.redis.delete(*keys)
    store.calls.clear()
    store.admin.acl_log_reset()
