"""Computes the rights of each component's Redis user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import left_queues

from .backup_options import BACKUP_USER
from .exporters import REDIS_USER

# The commands that each component needs, found by running all of Celery with such rights until `ACL LOG` stayed empty.
_SCRIPTS = "+evalsha +script|load +script|exists"

# What Debian's prometheus-redis-exporter asks without CONFIG, which would show it all settings. It has no key, but an
# entry of the slow log has the beginning of a command's arguments, so it may see parts of a message.
_REDIS_EXPORTER = "+info +slowlog|len +slowlog|get +latency|latest +latency|histogram"

# A snapshot, as a replica gets it: everything that the instance has, without the right to read or write any key by a
# command.
_BACKUP = "+sync +replconf"

_BROKER_COMMANDS = {
    # The second line is what the atomic fetch, the lease, hand-back and dead letters add to Celery's own commands,
    # except ZREVRANGEBYSCORE: kombu before 5.7 uses it to find overdue tasks. HELLO, which asks for RESP3, needs no
    # right.
    "worker": "+brpop +lpush +rpush +llen +del +exists +hset +hget +hdel +zadd +zrem +zrange +zrangebyscore +zscore "
    "+zrevrangebyscore +client|tracking +blmove +rpop +lrange +hexists +hgetall +hlen +hscan +ltrim +zcard +zscan "
    f"+sadd +srem +smembers +set +get +time +watch +unwatch +multi +exec +discard {_SCRIPTS} +publish +psubscribe "
    # redis-py before 6 sends the last one when it closes such a connection.
    "+punsubscribe +unsubscribe",
    "beat": "+llen +lpush +sadd +smembers +multi +exec +discard +publish",
    "producer": "+llen +lpush +sadd +smembers +multi +exec +discard +publish",
    "flower": f"+brpop +del +exists {_SCRIPTS} +llen +multi +exec +discard +psubscribe +publish +set +get +srem +sadd "
    "+zadd +zrem +zrange +zrangebyscore +time",
    "operator": f"+brpop +del +exists {_SCRIPTS} +llen +multi +exec +discard +psubscribe +punsubscribe +publish +set "
    "+get +srem +sadd +zadd +zrem +zrange +zrangebyscore +zrevrangebyscore +time +lpush +smembers +lrange +lrem +info "
    # For dead letters and pauses.
    "+hget +hgetall +hlen +hset +hdel +zcard",
    "exporter": "+exists +llen +lindex +hlen +zrange +zcard +info +time",
    REDIS_USER: _REDIS_EXPORTER,
    BACKUP_USER: _BACKUP,
}

_RESULTS_COMMANDS = {
    # The last is for `Task.add_to_chord`, the lists are for chords with `result_chord_ordered: false`.
    "worker": "+select +get +mget +set +setex +del +exists +expire +publish +subscribe +unsubscribe +multi +exec "
    "+discard +evalsha +script|load +zrange +zadd +zcount +sadd +sismember +rpush +lrange +llen +incrby "
    # For the history of tasks.
    "+xadd +xlen +xtrim +memory|usage",
    "producer": "+select +get +mget +set +setex +del +publish +subscribe +unsubscribe +multi +exec +discard",
    "flower": "+select +get +mget +subscribe +unsubscribe",
    "operator": "+select +get +mget +subscribe +unsubscribe +info +xrevrange +memory|usage",
    "exporter": "+info",
    REDIS_USER: _REDIS_EXPORTER,
    BACKUP_USER: _BACKUP,
}

# The application may do anything with its cache, but not with the server. Django's `cache.clear()` is FLUSHDB.
_CACHE_USERS = {
    "cache": "+@all -@admin -@dangerous +flushdb ~* &*",
    "operator": "+select +info",
    "exporter": "+info",
    REDIS_USER: _REDIS_EXPORTER,
}

# The fleet's own user, who changes settings and the ACL live but can read no key; on the broker it also finds queues
# that the inventory no longer names. redis-cli asks for the commands' descriptions when it reads from a file.
_ADMIN = "+acl +config +info +client +memory +slowlog +latency +dbsize +lastsave +bgsave +bgrewriteaof +command"

# Users of an instance that has replicas: what a replica asks its primary, and what Sentinels ask and tell both. They
# meet on the channel `__sentinel__:hello`.
_REPLICATION = {
    "replica": "+psync +replconf",
    "sentinel": "+info +role +replicaof +slaveof +multi +exec +config|rewrite +client|setname +client|kill "
    "+script|kill +publish +subscribe &__sentinel__:hello",
}

REPLICATION_USERS = tuple(_REPLICATION)

# Users of a Sentinel. Everyone may ask where the primary is; redis-py asks for all of them.
_SENTINEL_ASK = "+sentinel|get-master-addr-by-name +sentinel|masters"
_SENTINEL_PEER = "+sentinel|is-master-down-by-addr +publish +client|setname &__sentinel__:hello"
_SENTINEL_ADMIN = "+sentinel +acl +info +client"

# The fleet's own keys on the broker (`celery_fleet.delivery.keys`).
_FLEET_KEYS = "fleet:*"

# The probe for a full broker, which all components run, would write to this (`celery_fleet.supervision.broker.ROOM`).
_ROOM_KEY = "fleet:room"

# What several beats need to agree on the one that sends (`celery_fleet.beat.leadership`).
_STANDBY = "+eval +get +set +del +hget +hset +hgetall +hdel"
_BEATS = "fleet:beat:*"

# What celery-redbeat does with its schedule. Beat's scripts write it, and processes of the application change entries.
# They have their own selector, so DEL can't reach queues. The scripts get all their keys in one.
_REDBEAT = (
    "+hget +hmget +hset +hsetnx +del +exists +zadd +zrem +zrank +zrange +zrangebyscore +smembers "
    "+sadd +srem +multi +exec"
)
_REDBEATS = "redbeat:*"

# The fleet's own key in the result store, from the same file.
_HISTORY = "fleet:history"

_RESULT_KEYS = ("celery-task-meta-*", "celery-taskset-meta-*")


def _lists(name: str) -> list[str]:
    r"""Return a queue's Redis keys: the list itself and those of its lower priorities (`\x06\x16` and a digit)."""
    return [name, f"{name}{left_queues.PRIORITIES}"]


def _broker_keys(component: str, names: Iterable[str]) -> list[str]:
    tasks = [key for name in names for key in _lists(name)]
    direct = _lists("*.dq2")
    replies = _lists("*.reply.celery.pidbox")
    if component == "worker":
        keys = [
            *tasks,
            *direct,
            "unacked",
            "unacked_index",
            "unacked_mutex",
            "_kombu.binding.*",
            "_kombu.binding_permanent.*",
            "_kombu.binding_deadlines",
            *_lists("*.celery.pidbox"),
            "celeryev.*",
            _FLEET_KEYS,
        ]
        return [f"~{key}" for key in keys]
    if component in ("beat", "producer"):
        # For all exchanges, because the application's code names them. A sender reads which queues are bound to one.
        written = [*tasks, "_kombu.binding_permanent.*", _ROOM_KEY]
        return ["~_kombu.binding.*", *(f"%W~{key}" for key in written)]
    if component in (REDIS_USER, BACKUP_USER):
        return []
    if component == "exporter":
        # LINDEX shows a waiting message, of which only the header with its sending time is used.
        read = [*tasks, "unacked", "unacked_index", "fleet:dead-letters:index"]
        return [f"%R~{key}" for key in read]
    if component == "flower":
        bindings = [
            f"_kombu.binding{kind}.{name}"
            for name in ("reply.celery.pidbox", "celeryev")
            for kind in ("", "_permanent")
        ]
        keys = [*replies, "celeryev.*", *bindings, "_kombu.binding_deadlines", "unacked_mutex"]
        return [
            *(f"~{key}" for key in keys),
            f"%W~{_ROOM_KEY}",
            *(f"%R~{key}" for key in [*tasks, *direct, "unacked_index"]),
        ]
    keys = [
        *replies,
        "celeryev.*",
        "_kombu.binding.*",
        "_kombu.binding_permanent.*",
        "_kombu.binding_deadlines",
        *tasks,
        *direct,
        "unacked_mutex",
        _FLEET_KEYS,
    ]
    return [*(f"~{key}" for key in keys), "%R~unacked_index"]


# Redis compares PSUBSCRIBE patterns with the ACL's literally, so these are the patterns that Celery sends.
_BROKER_CHANNELS = {
    "worker": ("/0.celery.pidbox", "/0.celeryev/*", "/0.celeryev/worker.*"),
    "beat": ("/0.celeryev/task.sent",),
    "producer": ("/0.celeryev/task.sent",),
    "flower": ("/0.celeryev/*", "/0.celery.pidbox"),
    "operator": ("/0.celeryev/*", "/0.celery.pidbox"),
}

# What a producer may do to inspect and control workers. It has its own selector, so DEL and SET can't reach queues.
_REMOTE_CONTROL = (
    f"+brpop +del +exists {_SCRIPTS} +get +llen +publish +sadd +set +smembers +srem +time +zadd +zrem +zrange "
    "+zrangebyscore +zrevrangebyscore"
)


def _remote_control() -> str:
    keys = [
        *_lists("*.reply.celery.pidbox"),
        "_kombu.binding.reply.celery.pidbox",
        "_kombu.binding_permanent.reply.celery.pidbox",
        "_kombu.binding_deadlines",
        "unacked_mutex",
    ]
    rules = [_REMOTE_CONTROL, *(f"~{key}" for key in keys), "%R~unacked_index", "&/0.celery.pidbox"]
    return f"({' '.join(rules)})"


# What a process outside of the fleet needs to consume queues with Celery, or only with kombu. It has its own selector,
# so POP and DEL can't reach the queues that it may only send to.
_CONSUME = (
    f"+brpop +del +exists +get +hdel +hget +hset +llen +lpush +rpush +set {_SCRIPTS} +time +unwatch +watch +zadd +zrem "
    "+zrange +zrangebyscore +zrevrangebyscore"
)

# A client reads results, but writes only its own groups and chords, so it can't forge the result of a task.
_RESULTS_READ = "+select +get +mget +subscribe +unsubscribe +multi +exec +discard"
_RESULTS_GROUPS = "+get +set +setex +del +publish"


def _client_rules(instance: str, name: str, client: Mapping[str, Any]) -> str:
    """Return what a client outside of the fleet may do on an instance; an empty string if it gets no user there."""
    if instance == "cache":
        return ""
    consumed = client.get("consume") or ()
    if instance == "results":
        meta, groups = _RESULT_KEYS
        if not client.get("results"):
            return ""
        if consumed:
            return f"{_RESULTS_COMMANDS['worker']} ~{meta} ~{groups} &{meta} &{groups}"
        return f"{_RESULTS_READ} %R~{meta} &{meta} ({_RESULTS_GROUPS} ~{groups} &{groups})"
    queues = client.get("queues") or ()
    # Only exchanges with the names of its queues, as Celery makes them: a client that could bind its queue to another
    # exchange would get copies of tasks that are sent there.
    exchanges = [*queues, *consumed]
    written = [
        *(key for queue in queues for key in _lists(queue)),
        *(f"_kombu.binding_permanent.{exchange}" for exchange in exchanges),
    ]
    parts = [
        _BROKER_COMMANDS["producer"],
        *(f"~_kombu.binding.{exchange}" for exchange in exchanges),
        *(f"%W~{key}" for key in written),
        *(f"&{channel}" for channel in _BROKER_CHANNELS["producer"]),
    ]
    if consumed:
        keys = [*(key for queue in consumed for key in _lists(queue)), f"{name}:unacked*"]
        parts.append(f"({_CONSUME} {' '.join(f'~{key}' for key in keys)})")
    if client.get("control"):
        parts.append(_remote_control())
    return " ".join(parts)


def _user(name: str, password: str, rules: str) -> str:
    return f"user {name} on >{password} resetchannels -@all +ping {rules}".rstrip()


def knows_setinfo(flavor: str, facts: Mapping[str, Any]) -> bool:
    """Return whether a host's server knows `CLIENT SETINFO`, as Redis since 7.2 does, from which Valkey was forked.

    Args:
        flavor: `redis_flavor`.
        facts: `ansible_facts['fleet']` of the host.
    """
    package = str((facts.get("versions") or {}).get("redis-server") or "")
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)", package)
    if flavor != "redis":
        return True
    if not found:
        # If a host's package lists are empty, the version is unknown. Redis refuses to start with a rule for a command
        # that it lacks, and clients can do without this one.
        return (facts.get("distribution"), facts.get("distribution_version")) == ("debian", "13")
    return (int(found[1]), int(found[2])) >= (7, 2)


def acl(
    instance: str,
    passwords: Mapping[str, str],
    names: Iterable[str],
    setinfo: bool = False,
    remote_control: bool = False,
    clients: Mapping[str, Mapping[str, Any]] | None = None,
    standby: bool = False,
    redbeat: bool = False,
) -> str:
    """Return the ACL file of one Redis instance: one user for each component and client, with only the rights it needs.

    Args:
        instance: `broker`, `results` or `cache`.
        passwords: Passwords of the users; a component or client without one gets no user.
        names: All queues.
        setinfo: Whether the server knows `CLIENT SETINFO` (since 7.2), which clients send when they connect. Older
            servers refuse to start with a rule that they don't know.
        remote_control: celery_producer_remote_control.
        clients: celery_app_clients.
        standby: Whether beats agree on the one that sends.
        redbeat: Whether the schedule is on the broker, with celery-redbeat.
    """
    names = list(names)
    # No client can log in as this user. Redis replays its append-only file with its rights and checks them within
    # MULTI. Without them tasks and acknowledgements would be lost at a restart.
    lines = ["user default off resetpass allkeys allchannels +@all"]
    # A connection may have a name (redis_client_name), which Redis shows in CLIENT LIST.
    extra = " +client|setname" + (" +client|setinfo" if setinfo else "")
    # With replicas, who sends a task waits until they have it.
    waiting = ("worker", "beat", "producer", "operator") if "replica" in passwords else ()
    commands = {
        "broker": _BROKER_COMMANDS,
        "results": _RESULTS_COMMANDS,
        "cache": _CACHE_USERS,
    }[instance]
    for component, rules in commands.items():
        if component not in passwords:
            continue
        if instance == "broker":
            keys = _broker_keys(component, names)
            channels = _BROKER_CHANNELS.get(component, ())
        elif instance == "cache" or component in ("exporter", REDIS_USER, BACKUP_USER):
            keys, channels = [], ()
        else:
            reader = component in ("flower", "operator")
            keys = [
                f"{'%R' if reader else ''}~{key}"
                for key in (_RESULT_KEYS[:1] if reader else _RESULT_KEYS)
            ]
            keys += {"worker": [f"~{_HISTORY}"], "operator": [f"%R~{_HISTORY}"]}.get(component, [])
            channels = _RESULT_KEYS[:1] if reader else _RESULT_KEYS
        waits = " +wait" if instance == "broker" and component in waiting else ""
        text = " ".join([rules + extra + waits, *keys, *(f"&{channel}" for channel in channels)])
        if standby and (instance, component) == ("broker", "beat"):
            # Redis demands all rights on the keys of a script. None of these commands reads what waits in a queue.
            scripted = [_BEATS, *(key for name in names for key in _lists(name))]
            scripted += [_REDBEATS] if redbeat else []
            text += f" {_STANDBY} {' '.join(f'~{key}' for key in scripted)}"
        if redbeat and instance == "broker" and component in ("beat", "producer", "worker"):
            text += f" ({_REDBEAT} ~{_REDBEATS})"
        if remote_control and (instance, component) == ("broker", "producer"):
            text += f" {_remote_control()}"
        lines.append(_user(component, passwords[component], text))
    for name, client in (clients or {}).items():
        rules = _client_rules(instance, name, client)
        if rules and name in passwords:
            lines.append(_user(name, passwords[name], rules + extra))
    if instance != "cache":
        lines += [
            _user(name, passwords[name], rules)
            for name, rules in _REPLICATION.items()
            if name in passwords
        ]
    if "admin" in passwords:
        rules = f"{_ADMIN} {left_queues.RIGHTS}" if instance == "broker" else _ADMIN
        lines.append(_user("admin", passwords["admin"], rules))
    return "\n".join(lines) + "\n"


def sentinel_acl(
    passwords: Mapping[str, str],
    setinfo: bool = False,
    clients: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the ACL file of a Sentinel. Each user of Redis has the same password here; see `acl`."""
    extra = " +client|setinfo" if setinfo else ""
    rules = {
        **dict.fromkeys([*_BROKER_COMMANDS, *(clients or {})], _SENTINEL_ASK + extra),
        "sentinel": _SENTINEL_PEER,
        "admin": _SENTINEL_ADMIN,
    }
    # For the health check.
    rules["operator"] += " +sentinel|ckquorum"
    lines = [
        _user(name, passwords[name], rule) for name, rule in rules.items() if name in passwords
    ]
    return "\n".join(["user default off resetpass -@all", *lines]) + "\n"
