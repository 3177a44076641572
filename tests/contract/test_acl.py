"""The worker's user on Redis may run every command of a drain."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from kombu.transport.redis import Channel

from celery_fleet.delivery import keys as fleet_keys
from celery_fleet.delivery.scripts import BEGIN, HEAD, PUT_BACK, TAIL
from celery_fleet.supervision import broker

QUEUE = "discounts"

# The worker's rights in the oldest version that a fleet may go back to (tests/upgrade_from). A fleet that goes back
# gets them while this version's workers still drain.
OLDEST = (
    "brpop lpush rpush llen del exists hset hget hdel zadd zrem zrange zrangebyscore zscore sadd srem smembers set get "
    "time watch unwatch multi exec discard evalsha script|load script|exists publish psubscribe punsubscribe"
)

# In a pipeline, a script is loaded first and runs by its digest.
SCRIPT = {"evalsha", "script|load"}


def rules() -> list[str]:
    """Return the worker's rights on the broker."""
    (line,) = (
        line
        for line in acl.acl("broker", {"worker": "secret"}, [QUEUE]).splitlines()
        if line.startswith("user worker ")
    )
    return line.split(" ")


def test_a_worker_may_run_every_command_of_its_drain() -> None:
    scripts = PUT_BACK.text + BEGIN.text
    calls = re.findall(r"redis\.p?call\('(\w+)'", scripts)
    # One script pushes at the end that its argument names, another one raises an error.
    assert len(calls) + 2 == scripts.count("redis."), "a call that this test can't parse"
    needed = {call.lower() for call in (*calls, HEAD, TAIL)} | SCRIPT
    granted = {rule.removeprefix("+") for rule in rules() if rule.startswith("+")}
    assert needed <= granted, "messages could not be handed back: grant it in desired/acl.py"
    assert needed <= {*OLDEST.split()}, "messages could not be handed back when a fleet goes back"


def test_a_worker_may_use_every_key_of_its_drain() -> None:
    lists = [f"{QUEUE}{Channel.sep}{step}" for step in Channel.priority_steps if step]
    keys = [Channel.unacked_key, Channel.unacked_index_key, QUEUE, f"w@h.dq2{Channel.sep}9", *lists]
    keys.append(f"{fleet_keys.CLAIM}1")
    patterns = [rule.removeprefix("~") for rule in rules() if rule.startswith("~")]
    assert not [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in patterns)]


def test_every_user_may_ask_whether_the_broker_is_full() -> None:
    passwords = dict.fromkeys(("worker", "beat", "producer", "flower", "operator"), "secret")
    lines = acl.acl("broker", passwords, [QUEUE]).splitlines()[1:]
    assert len(lines) == len(passwords)
    for line in lines:
        words = line.split(" ")
        assert {f"+{command[0].lower()}" for command in broker._WOULD_WRITE} <= {*words, "+ping"}
        assert {f"%W~{broker.ROOM}", "~fleet:*"} & set(words), line
