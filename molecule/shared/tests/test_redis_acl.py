"""What each user may do on each instance of Redis, and that it may do nothing else.

Redis itself judges each sample with `ACL DRYRUN`, without running or logging it. That it enforces the same
is shown by one command for each user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import resp
from test_redis import USERS

if TYPE_CHECKING:
    from support.inventory import Fleet

# {queue}: one of the inventory's queues; {node}: a worker's node name.
BROKER = {
    "take a task": "BRPOP {queue} 1",
    "send a task": "LPUSH {queue} x",
    "send with a priority": "LPUSH {queue}\x06\x163 x",
    "count tasks": "LLEN {queue}",
    "read tasks": "LRANGE {queue} 0 -1",
    "empty a queue": "DEL {queue}",
    "send to no queue of ours": "LPUSH elsewhere x",
    "count no queue of ours": "LLEN elsewhere",
    "walk keys": "SCAN 0",
    "send directly": "LPUSH {node}.dq2 x",
    "take directly": "BRPOP {node}.dq2 1",
    "take back a canary": "LREM {node}.dq2 1 x",
    "hold a task": "HSET unacked tag x",
    "read a held task": "HGET unacked tag",
    "index a held task": "ZADD unacked_index 1 tag",
    "read the index": "ZRANGE unacked_index 0 -1",
    "declare a queue": "SADD _kombu.binding.{queue} x",
    "read bindings": "SMEMBERS _kombu.binding.{queue}",
    "remove a binding": "SREM _kombu.binding.{queue} x",
    "declare no queue of ours": "SADD _kombu.binding.elsewhere x",
    "read a worker's mailbox": "BRPOP {node}.celery.pidbox 1",
    "write to a worker's mailbox": "LPUSH {node}.celery.pidbox x",
    "answer an inquiry": "LPUSH id.reply.celery.pidbox x",
    "read an answer": "BRPOP id.reply.celery.pidbox 1",
    "command workers": "PUBLISH /0.celery.pidbox x",
    "hear commands": "PSUBSCRIBE /0.celery.pidbox",
    "publish task.sent": "PUBLISH /0.celeryev/task.sent x",
    "publish a worker's event": "PUBLISH /0.celeryev/worker.heartbeat x",
    "hear workers": "PSUBSCRIBE /0.celeryev/worker.*",
    "hear all events": "PSUBSCRIBE /0.celeryev/*",
    "run a loaded script": "EVALSHA x 1 _kombu.binding_deadlines",
    "run a script": "EVAL x 0",
    "administer": "CONFIG GET maxmemory",
    "read statistics": "INFO",
    "read the ACL's log": "ACL LOG",
    # No user may do this.
    "publish elsewhere": "PUBLISH elsewhere x",
    "hear elsewhere": "SUBSCRIBE elsewhere",
    "hear all": "PSUBSCRIBE *",
    "write a key of no kind": "SET elsewhere x",
    "read a key of no kind": "GET elsewhere",
    "list keys": "KEYS *",
    "delete all": "FLUSHALL",
    "delete a database": "FLUSHDB",
    "swap databases": "SWAPDB 0 0",
    "dump a key": "DUMP {queue}",
    "move a key": "RENAME {queue} elsewhere",
    "stop the server": "SHUTDOWN",
    "watch all commands": "MONITOR",
    "replicate": "REPLICAOF host 1",
    "load a module": "MODULE LOAD x",
    "load a function": "FUNCTION LOAD x",
    "debug": "DEBUG SLEEP 1",
}
_CONTROL = {
    *("read an answer", "command workers", "hear all events", "count tasks"),
    *("read the index", "run a loaded script"),
}
BROKER_MAY = {
    "worker": {
        *("take a task", "send a task", "send with a priority", "count tasks", "empty a queue"),
        # How long the oldest one has waited, for autoscaling.
        "read tasks",
        *("send directly", "take directly", "hold a task", "read a held task"),
        *("index a held task", "read the index", "declare a queue", "read bindings"),
        *("remove a binding", "declare no queue of ours", "read a worker's mailbox"),
        *("write to a worker's mailbox", "answer an inquiry", "read an answer"),
        *("command workers", "hear commands", "publish task.sent", "publish a worker's event"),
        *("hear workers", "hear all events", "run a loaded script"),
    },
    "beat": {
        *("send a task", "send with a priority", "count tasks", "declare a queue"),
        # With any exchange that the application names.
        *("declare no queue of ours", "read bindings", "publish task.sent"),
    },
    "producer": {
        *("send a task", "send with a priority", "count tasks", "declare a queue"),
        # With any exchange that the application names.
        *("declare no queue of ours", "read bindings", "publish task.sent"),
    },
    "flower": {
        *_CONTROL,
        # The channel of events is a pattern, so Flower may publish to what it may subscribe to.
        *("publish task.sent", "publish a worker's event", "hear commands"),
    },
    "operator": {
        *_CONTROL,
        *("take a task", "send a task", "send with a priority", "read tasks", "empty a queue"),
        "take back a canary",
        *("send directly", "take directly", "declare a queue", "read bindings"),
        *("remove a binding", "declare no queue of ours", "answer an inquiry"),
        *("publish task.sent", "publish a worker's event", "hear commands", "read statistics"),
    },
    "admin": {
        *("administer", "read statistics", "read the ACL's log"),
        # To find tasks in queues that are no longer in the inventory.
        *("walk keys", "count tasks", "count no queue of ours"),
    },
}

RESULTS = {
    "write a result": "SET celery-task-meta-id x",
    "read a result": "GET celery-task-meta-id",
    "remove a result": "DEL celery-task-meta-id",
    "announce a result": "PUBLISH celery-task-meta-id x",
    "hear of a result": "SUBSCRIBE celery-task-meta-id",
    "write a group": "SET celery-taskset-meta-id x",
    "read a group": "GET celery-taskset-meta-id",
    "count a chord": "ZCOUNT celery-taskset-meta-id.t -inf +inf",
    "administer": "CONFIG GET maxmemory",
    "read statistics": "INFO",
    "read the ACL's log": "ACL LOG",
    # No user may do this.
    "hear all results": "PSUBSCRIBE celery-task-meta-*",
    "publish elsewhere": "PUBLISH elsewhere x",
    "write a key of no kind": "SET elsewhere x",
    "read a key of no kind": "GET elsewhere",
    "send a task": "LPUSH {queue} x",
    "list keys": "KEYS *",
    "walk keys": "SCAN 0",
    "delete all": "FLUSHALL",
    "run a script": "EVAL x 0",
    "stop the server": "SHUTDOWN",
    "watch all commands": "MONITOR",
}
_READ = {"read a result", "hear of a result"}
RESULTS_MAY = {
    "worker": {
        *_READ,
        *("write a result", "remove a result", "announce a result", "write a group"),
        *("read a group", "count a chord"),
    },
    "producer": {
        *_READ,
        *("write a result", "remove a result", "announce a result", "write a group"),
        "read a group",
    },
    "flower": _READ,
    "operator": {*_READ, "read statistics"},
    "admin": {"administer", "read statistics", "read the ACL's log"},
}
TABLES = {"broker": (BROKER, BROKER_MAY), "results": (RESULTS, RESULTS_MAY)}
CASES = [(kind, user) for kind, users in USERS.items() for user in users]

pytestmark = [
    pytest.mark.unit(f"redis@{{celery_app_name}}-{kind}.service", "redis") for kind in TABLES
]


@pytest.mark.parametrize(("kind", "user"), CASES)
def test_a_user_may_do_exactly_what_is_listed(fleet: Fleet, kind: str, user: str) -> None:
    samples, may = TABLES[kind]
    name = fleet.one("celery_workers")
    worker = fleet.expected[name]["celery_worker_host_instances"][0]
    allowed = set()
    with resp.session(fleet, kind, "admin") as admin:
        for title, command in samples.items():
            words = [
                word.format(queue=worker, node=f"{worker}@{name}") for word in command.split(" ")
            ]
            if admin.send("ACL", "DRYRUN", user, *words) == "OK":
                allowed.add(title)
    assert allowed == may[user]


@pytest.mark.parametrize(("kind", "user"), CASES)
def test_redis_enforces_a_users_rights(fleet: Fleet, kind: str, user: str) -> None:
    with (
        resp.provoked(fleet, kind, (user, "command", "flushall")),
        resp.session(fleet, kind, user) as client,
    ):
        assert client.send("PING") == "PONG"
        with pytest.raises(resp.Refused, match="NOPERM"):
            client.send("FLUSHALL")


@pytest.mark.parametrize("user", ["producer", "beat"])
def test_keys_and_channels_are_enforced(fleet: Fleet, user: str) -> None:
    queue = fleet.of("celery_workers")["celery_worker_host_instances"][0]
    with (
        resp.provoked(
            fleet,
            "broker",
            (user, "key", "elsewhere"),
            (user, "command", "brpop"),
            (user, "channel", "/0.celery.pidbox"),
        ),
        resp.session(fleet, "broker", user) as client,
    ):
        for words in (
            ("LPUSH", "elsewhere", "x"),
            ("BRPOP", queue, "1"),
            ("PUBLISH", "/0.celery.pidbox", "x"),
        ):
            with pytest.raises(resp.Refused, match="NOPERM"):
                client.send(*words)
