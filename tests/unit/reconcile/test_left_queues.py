"""Tasks in queues that leave the inventory: a real server with the roles' users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    left_queues,
    redis_live,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import users
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import talk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_live import (
    LiveChange,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal import messages
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.application import (
    InstalledApplication,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import (
    ApplicationPaths,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import RemovalHost
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl as desired_acl

from tests.fleet import PASSWORDS
from tests.support.certificates import Authority
from tests.support.redis_server import redis_server

CLIENTS = {"shop": {"queues": ["callbacks"], "consume": ["callbacks"], "control": True}}


def rules(*queues: str) -> dict[str, str]:
    """Return the rules of the broker's users with these queues in the inventory."""
    passwords = {**PASSWORDS, "shop": "pw-of-shop"}
    return users(desired_acl.acl("broker", passwords, [*queues, "callbacks"], clients=CLIENTS))


class Broker:
    """A broker with users who have the rules for the queue `mail`."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.access = RedisAccess(
            "localhost", port, str(directory / "ca.crt"), "admin", PASSWORDS["admin"], queues=True
        )

    def as_user(self, name: str) -> redis.Redis:
        made: redis.Redis = redis.Redis(
            host="localhost",
            port=self.access.port,
            ssl=True,
            ssl_ca_certs=self.access.ca,
            username=name,
            password=PASSWORDS[name],
        )
        return made

    def set_users(self, wanted: dict[str, str]) -> None:
        redis_live.finish(self.access, LiveChange(users=tuple(wanted)), (), wanted, talk)

    def left(self, *queues: str) -> dict[str, int]:
        """Return what waits in queues other than these."""
        named = left_queues.named(rules(*queues), "admin")
        return left_queues.waiting(self.access, named, talk)

    def may(self, user: str, *command: str) -> bool:
        return talk(self.access, [["ACL", "DRYRUN", user, *command]]) == ["OK"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    directory = tmp_path_factory.mktemp("broker")
    Authority("one").install(directory, "DNS:localhost")
    acl = desired_acl.acl("broker", PASSWORDS, ["mail"])
    with redis_server(directory, users=acl, tls=directory) as running:
        made = Broker(directory, running.tls_port)
        assert redis_live.takes_password(made.access, talk)
        yield made


@pytest.fixture
def broker(server: Broker) -> Iterator[Broker]:
    server.set_users(rules("mail"))
    yield server
    server.set_users(rules("mail"))
    with suppress(redis.ResponseError):
        server.as_user("worker").delete("mail", "mail\x06\x163", "unacked", "callbacks")


def fill(broker: Broker) -> None:
    """Send three tasks to `mail`, one of them with another priority, and write what is no task."""
    worker: Any = broker.as_user("worker")
    worker.lpush("mail", "1", "2")
    worker.lpush("mail\x06\x163", "3")
    worker.lpush("w1@host.celery.pidbox", "ping")
    worker.lpush("fleet:unreadable", "x")
    worker.hset("unacked", "tag", "4")


def test_tasks_in_a_queue_that_leaves_are_found_in_all_their_lists(broker: Broker) -> None:
    fill(broker)
    broker.as_user("worker").lpush("callbacks", "5")
    assert broker.left("mail") == {}
    assert broker.left("emails") == {"mail": 3}
    # A name that begins like it is another queue.
    assert broker.left("mail2", "mai") == {"mail": 3}


def test_only_the_operator_keeps_a_queue_that_leaves_with_tasks(broker: Broker) -> None:
    fill(broker)
    after = rules("emails")
    redis_live.apply(broker.access, LiveChange(users=tuple(after)), after, talk)
    waiting = broker.left("emails")
    redis_live.finish(broker.access, LiveChange(), after, after, talk)
    assert redis_live.leave(broker.access, waiting, after, talk) == ["operator"]
    operator: Any = broker.as_user("operator")
    assert [operator.llen(key) for key in ("mail", "mail\x06\x163")] == [2, 1]
    # Nothing more gets in, and a worker can have it again with the inventory only.
    assert not broker.may("producer", "LPUSH", "mail", "x")
    assert not broker.may("worker", "LPUSH", "mail", "x")
    assert not broker.may("operator", "LLEN", "other")
    assert operator.delete("mail", "mail\x06\x163") == 2

    waiting = broker.left("emails")
    redis_live.finish(broker.access, LiveChange(), ["operator"], after, talk)
    assert (waiting, redis_live.leave(broker.access, waiting, after, talk)) == ({}, [])
    assert not broker.may("operator", "LLEN", "mail")


def test_a_server_that_lost_the_rights_still_shows_the_tasks(broker: Broker) -> None:
    fill(broker)
    after = rules("emails")
    broker.set_users(after)
    assert not broker.may("operator", "LLEN", "mail")
    assert broker.left("emails") == {"mail": 3}
    assert redis_live.leave(broker.access, broker.left("emails"), after, talk) == ["operator"]
    assert broker.may("operator", "LLEN", "mail")


def test_lists_with_any_names_are_found_and_can_be_emptied(broker: Broker) -> None:
    strange = "a b*[c] (é)"
    default = {"tester": f"on >{PASSWORDS['worker']} ~* +lpush +del"}
    redis_live.finish(broker.access, LiveChange(users=("tester",)), (), default, talk)
    tester = RedisAccess(
        "localhost", broker.access.port, broker.access.ca, "tester", "pw-of-worker"
    )
    talk(tester, [["LPUSH", strange, "1"]])
    assert broker.left("mail") == {strange: 1}
    redis_live.leave(broker.access, [strange], rules("mail"), talk)
    assert broker.may("operator", "DEL", strange)
    talk(tester, [["DEL", strange]])


def test_the_admin_sees_names_and_lengths_but_no_content(broker: Broker) -> None:
    assert broker.may("admin", "LLEN", "mail")
    for command in (
        ("LRANGE", "mail", "0", "1"),
        ("LINDEX", "mail", "0"),
        ("LPOP", "mail"),
        ("LPUSH", "mail", "x"),
        ("HGET", "unacked", "tag"),
        ("GET", "x"),
        ("DUMP", "mail"),
        ("DEL", "mail"),
    ):
        assert not broker.may("admin", *command), command


@pytest.mark.parametrize("earlier", [False, True])
def test_a_removal_counts_what_the_inventory_does_not_name(
    broker: Broker, tmp_path: Path, earlier: bool
) -> None:
    """Also in a fleet of an earlier version: its `admin` has no right to look."""
    fill(broker)
    gone = left_queues.RIGHTS if earlier else "+none"
    old = {name: text.replace(gone, "") for name, text in rules("emails").items()}
    broker.set_users(old)
    assert broker.may("admin", "SCAN", "0") is not earlier
    paths = ApplicationPaths.usual("shop")
    acl = tmp_path / f"{paths.redis_config}/shop-broker/users.acl".lstrip("/")
    acl.parent.mkdir(parents=True)
    acl.write_text("".join(f"user {name} {text}\n" for name, text in old.items()))
    commands: list[str] = []

    def noted(access: RedisAccess, asked: Sequence[Sequence[str]]) -> list[object]:
        commands.extend(command[0] for command in asked)
        return talk(access, asked)

    there = InstalledApplication(paths, (), RemovalHost(base=str(tmp_path), talk=noted))
    operator = replace(broker.access, user="operator", password=PASSWORDS["operator"])
    assert messages.queues_of(there, operator) == {"mail": 3}
    assert ("ACL" in commands) is earlier


def test_more_keys_than_one_answer_has_are_all_looked_at(broker: Broker) -> None:
    worker: Any = broker.as_user("worker")
    with worker.pipeline(transaction=False) as pipeline:
        for number in range(25_000):
            pipeline.hset(f"fleet:x:{number}", "a", 1)
        pipeline.lpush("mail", "1")
        pipeline.execute()
    assert broker.left() == {"mail": 1}
    worker.delete(*(f"fleet:x:{number}" for number in range(25_000)))
