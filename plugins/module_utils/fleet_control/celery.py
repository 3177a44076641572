"""What the roles compute from an application's variables: settings, command lines, ACL lines, queues.

Plain functions over plain data; `plugins/filter/fleet.py` makes them filters. Sources of the values: Celery's
and kombu's documentation of Redis, and what docs/architecture.md says was measured.
"""

from __future__ import annotations

import fnmatch
import math
import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from .delivery import LEASE, SETTINGS, override, promise_of, variable
from .delivery import parts as delivery_parts

DEFAULT_QUEUE = "celery"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Worker options that are a flag of `celery worker` with a value: ours -> Celery's.
_VALUES = {
    "concurrency": "--concurrency",
    "pool": "--pool",
    "pool_start_method": "--pool-start-method",
    "prefetch_multiplier": "--prefetch-multiplier",
    "time_limit": "--time-limit",
    "soft_time_limit": "--soft-time-limit",
    "max_tasks_per_child": "--max-tasks-per-child",
    "max_memory_per_child": "--max-memory-per-child",
    "loglevel": "--loglevel",
    "autoscale": "--autoscale",
    "optimization": "-O",
    "heartbeat_interval": "--heartbeat-interval",
    "statedb": "--statedb",
}
# ... that are switched on by their presence ...
_SWITCHES = {
    "task_events": "--task-events",
    "without_gossip": "--without-gossip",
    "without_mingle": "--without-mingle",
    "without_heartbeat": "--without-heartbeat",
    "disable_prefetch": "--disable-prefetch",
    "purge": "--purge",
}
# ... and that take a comma-separated list.
_LISTS = {"exclude_queues": "--exclude-queues", "include": "--include"}

# Options of a worker that systemd enforces, or that say how its unit is built.
UNIT_OPTIONS = (
    "drain_timeout",
    "watchdog_sec",
    "memory_max",
    "memory_high",
    "cpu_quota",
    "tasks_max",
    "environment",
    "memory_deny_write_execute",
    "proc_subset_pid",
    "read_write_paths",
    "overlap",
)
# ... and that say how its tasks are delivered.
DELIVERY_OPTIONS = ("delivery", "take")
WORKER_OPTIONS = ("queues", *_VALUES, *_SWITCHES, *_LISTS, *UNIT_OPTIONS, *DELIVERY_OPTIONS)


def worker_queues(name: str, options: Mapping[str, Any] | None) -> list[str]:
    """Queues of one worker; without any it consumes the one of its own name."""
    queues = (options or {}).get("queues") or [name]
    return [str(queue) for queue in queues]


def queues(
    instances: Mapping[str, Mapping[str, Any] | None],
    schedule: Mapping[str, Mapping[str, Any]] | None = None,
    routes: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[str]:
    """Every queue that the inventory names, sorted: consumed, scheduled onto or routed to."""
    found = {q for name in instances for q in worker_options(name, instances, defaults)["queues"]}
    found |= {str(entry["queue"]) for entry in (schedule or {}).values() if entry.get("queue")}
    found |= {str(route["queue"]) for route in (routes or {}).values() if route.get("queue")}
    return sorted(found)


def worker_options(
    name: str,
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One worker's options over the defaults of all."""
    options = {**(defaults or {}), **(instances[name] or {})}
    options["queues"] = worker_queues(name, options)
    return options


def drain_timeout(options: Mapping[str, Any]) -> float:
    """Seconds a stopping worker waits for its running tasks: by default their hard time limit.

    A worker without a time limit gets ten minutes: systemd's own 90 s would kill tasks that nobody bounded.
    """
    given = options.get("drain_timeout")
    if given is None:
        given = options.get("time_limit")
    return float(given) if given is not None else 600.0


def longest_drain(
    instances: Mapping[str, Mapping[str, Any] | None], defaults: Mapping[str, Any] | None = None
) -> float:
    """Seconds that the longest drain of any worker may take."""
    return max(
        (drain_timeout(worker_options(name, instances, defaults)) for name in instances),
        default=0.0,
    )


def running(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], app: str
) -> list[dict[str, str]]:
    """Host and name of every worker that runs, from what this run's plan has seen."""
    pattern = re.compile(rf"{re.escape(app)}-worker@([^.]+)\.service")
    found = []
    for host in hosts:
        states = (hostvars[host].get("__fleet_plan") or {}).get("states") or {}
        for unit, state in states.items():
            name = pattern.fullmatch(unit)
            if name and state["active"] == "active":
                found.append({"host": host, "worker": name[1]})
    return found


def worker_command(module: str, node: str, options: Mapping[str, Any], logfile: str = "") -> str:
    """The command line of one worker, quoted for shlex; `python` stands for the release's own interpreter."""
    words = [
        "python",
        "-m",
        "celery",
        "-A",
        module,
        "worker",
        "-n",
        node,
        "-Q",
        ",".join(options["queues"]),
    ]
    for key, flag in _VALUES.items():
        # Celery's own default, WARNING, leaves nothing of tasks in the journal.
        value = options.get(key, "INFO" if key == "loglevel" else None)
        if value is None:
            continue
        if isinstance(value, (list, tuple)):
            value = ",".join(str(part) for part in value)
        words += [f"{flag}={value}"] if flag.startswith("--") else [flag, str(value)]
    words += [flag for key, flag in _SWITCHES.items() if options.get(key)]
    for key, flag in _LISTS.items():
        if options.get(key):
            words.append(f"{flag}={','.join(str(part) for part in options[key])}")
    if logfile:
        words.append(f"--logfile={logfile}")
    return shlex.join(words)


def _tls(ca: str, client: Mapping[str, str] | None) -> dict[str, Any]:
    options = {"ssl_cert_reqs": "required", "ssl_ca_certs": ca, "ssl_check_hostname": True}
    if client:
        options |= {"ssl_certfile": client["certificate"], "ssl_keyfile": client["key"]}
    return options


def _url(user: str, password: str, host: str, port: int) -> str:
    address = f"[{host}]" if ":" in host else host
    return f"rediss://{quote(user, safe='')}:{quote(password, safe='')}@{address}:{int(port)}/0"


# Settings that are dictionaries of options: an inventory that sets one option keeps the others.
_MERGED = (
    "broker_transport_options",
    "result_backend_transport_options",
    "task_publish_retry_policy",
    "broker_use_ssl",
    "redis_backend_use_ssl",
)


# They listen to replies and events, and kombu has every consumer put back tasks whose time is up; they may not write to
# queues, so that whatever they were doing would end with an error of Redis. Seconds: a hundred years, so
# that whatever has a time is younger.
_NO_WORKERS = ("producer", "flower", "operator")
_NEVER = 3_153_600_000


def process_settings(
    app: str,
    component: str,
    user: str,
    password: str,
    broker: Mapping[str, Any],
    results: Mapping[str, Any],
    ca: str,
    visibility_timeout: float = 3600,
    settings: Mapping[str, Any] | None = None,
    routes: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    delivery: str = "inherit",
    policy: str = "add",
    scheduler: str = "persistent",
    edited: str = "keep",
    parts: Mapping[str, Any] | None = None,
    client: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What one component of the application is told by the fleet: the content of its `settings.json`.

    Args:
        app: Name of the application.
        component: worker, beat, producer, operator or flower.
        user: The component's user in Redis.
        password: That user's password.
        broker: Host and port of the broker.
        results: Host and port of the result store.
        ca: Path, on the host, of the certificate that signs the servers'.
        visibility_timeout: Seconds; the same for every worker of an application, since the shortest wins.
        settings: The inventory's own Celery settings; they win over ours, option by option where a setting has some.
        routes: task_routes.
        schedule: beat's entries, for beat alone.
        delivery: celery_app_delivery.
        policy: celery_beat_schedule_policy, for beat alone.
        scheduler: celery_beat_scheduler, for beat alone.
        edited: celery_beat_schedule_edited, for beat alone.
        parts: Which parts of the delivery are on (`delivery.document`), for workers alone.
        client: Paths, on the host, of the `certificate` and `key` that it shows to Redis, where it shows one. A process
            that may not read them has them by credential, under the files' names.
    """
    # A half-open connection is noticed within seconds, and a publish or an acknowledgement never waits for ever.
    transport: dict[str, Any] = {
        "visibility_timeout": visibility_timeout,
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "unacked_restore_interval": 10,
        "unacked_mutex_expire": 30,
    }
    pins: dict[str, Any] = {
        "broker_url": _url(user, password, str(broker["host"]), int(broker["port"])),
        "broker_read_url": None,
        "broker_write_url": None,
        "broker_use_ssl": _tls(ca, client),
        "broker_transport_options": transport,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "task_publish_retry": True,
        "task_publish_retry_policy": {
            "max_retries": 20,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 2,
        },
        "result_backend_always_retry": True,
        "result_backend_max_retries": 10,
        "redis_socket_timeout": 10,
        "redis_socket_connect_timeout": 3,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 5,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # For a developer's machine: here tasks would run within whoever sends them.
        "task_always_eager": False,
        "worker_direct": component in ("worker", "operator"),
        **SETTINGS[delivery],
    }
    if component == "producer":
        # A visitor waits, and gunicorn ends a process that is silent for 30 s: a restart of Redis is bridged, and then
        # the caller is told. Sending ends some 7 s after the broker is away; it asks the result store first, so as to
        # hear of the answer, and there the policy's timeout is the bound. The retries are for reading a result.
        pins.update(
            task_publish_retry_policy={
                "max_retries": 6,
                "interval_start": 0,
                "interval_step": 0.5,
                "interval_max": 2,
            },
            result_backend_transport_options={"retry_policy": {"timeout": 5.0}},
            result_backend_max_retries=8,
        )
    if component == "operator":
        # Somebody waits for the answer, and would rather read that there is none: Celery's own commands give up within
        # seconds with these.
        transport.update(socket_timeout=3, max_retries=1)
        pins.update(
            broker_connection_retry=False,
            broker_connection_retry_on_startup=False,
            broker_connection_max_retries=0,
            broker_connection_timeout=3,
            task_publish_retry=False,
            result_backend_always_retry=False,
            result_backend_max_retries=1,
            result_backend_transport_options={
                "retry_policy": {
                    "max_retries": 1,
                    "interval_start": 0,
                    "interval_step": 0.2,
                    "interval_max": 0.2,
                }
            },
            redis_socket_timeout=3,
        )
    if component == "beat":
        # A beat that has lost its connection would otherwise give up an entry after 4 s, whatever the policy says.
        transport["connect_retries_timeout"] = 60
        # Beat has no use for results, and so needs no user on that instance.
        pins["result_backend"] = "disabled://"
        # With a result_expires beat would add an entry that cleans such results up.
        pins["result_expires"] = None
        # Its user may not have a mailbox, and beat would try every 5 s. The unit's watchdog sees whether it is alive.
        pins["beat_enable_remote_control"] = False
    else:
        pins["result_backend"] = _url(user, password, str(results["host"]), int(results["port"]))
        pins["redis_backend_use_ssl"] = _tls(ca, client)
    if routes:
        pins["task_routes"] = routes
    if component == "beat" and policy != "refuse":
        # One that is switched off here may stand in the code; in a database it is there, and off.
        pins["beat_schedule"] = {
            name: {key: value for key, value in entry.items() if key != "enabled"}
            if entry.get("enabled", True)
            else dict(entry)
            if scheduler == "database"
            else {"enabled": False}
            for name, entry in (schedule or {}).items()
        }
    for name, value in (settings or {}).items():
        ours = pins.get(name)
        merge = name in _MERGED and isinstance(ours, dict) and isinstance(value, Mapping)
        pins[name] = {**ours, **value} if merge and ours else value
    options = pins["broker_transport_options"]
    if component in _NO_WORKERS and isinstance(options, Mapping):
        pins["broker_transport_options"] = {**options, "visibility_timeout": _NEVER}
    document: dict[str, Any] = {"format": 1, "app": app, "component": component, "celery": pins}
    if component == "beat":
        document["beat_schedule_policy"] = policy
        if scheduler != "persistent":
            document.update(beat_scheduler=scheduler, beat_schedule_edited=edited)
    if component == "worker" and parts:
        document["delivery"] = dict(parts)
    return document


# What each component does on Redis, found by running all of Celery under it until `ACL LOG` stayed empty.
_SCRIPTS = "+evalsha +script|load +script|exists"
_BROKER_COMMANDS = {
    # Its second line is what the atomic take, the lease, hand-back and dead letters add to Celery's own commands, but
    # for ZREVRANGEBYSCORE: by it kombu before 5.7 looks for overdue tasks. HELLO, by which it asks for RESP3, is
    # anybody's.
    "worker": "+brpop +lpush +rpush +llen +del +exists +hset +hget +hdel +zadd +zrem +zrange +zrangebyscore +zscore "
    "+zrevrangebyscore +client|tracking +blmove +rpop +hexists +hlen +hscan +ltrim +zcard +zscan "
    f"+sadd +srem +smembers +set +get +time +watch +unwatch +multi +exec +discard {_SCRIPTS} +publish +psubscribe "
    # The last is redis-py's before 6, when it closes such a connection.
    "+punsubscribe +unsubscribe",
    "beat": "+llen +lpush +sadd +smembers +multi +exec +discard +publish",
    "producer": "+llen +lpush +sadd +smembers +multi +exec +discard +publish",
    "flower": f"+brpop +del +exists {_SCRIPTS} +llen +multi +exec +discard +psubscribe +publish +set +get +srem +sadd "
    "+zadd +zrem +zrange +zrangebyscore +time",
    "operator": f"+brpop +del +exists {_SCRIPTS} +llen +multi +exec +discard +psubscribe +punsubscribe +publish +set "
    "+get +srem +sadd +zadd +zrem +zrange +zrangebyscore +zrevrangebyscore +time +lpush +smembers +lrange +lrem +info "
    # Of dead letters.
    "+hget +hlen +hdel +zcard",
}
_RESULTS_COMMANDS = {
    # The last is `Task.add_to_chord`; the lists are chords with `result_chord_ordered: false`.
    "worker": "+select +get +mget +set +setex +del +exists +expire +publish +subscribe +unsubscribe +multi +exec "
    "+discard +evalsha +script|load +zrange +zadd +zcount +sadd +sismember +rpush +lrange +llen +incrby",
    "producer": "+select +get +mget +set +setex +del +publish +subscribe +unsubscribe +multi +exec +discard",
    "flower": "+select +get +mget +subscribe +unsubscribe",
    "operator": "+select +get +mget +subscribe +unsubscribe +info",
}
# The bundle's own user: settings and the ACL itself, live, but no key. redis-cli asks for the commands' own
# descriptions where it reads from a file.
_ADMIN = "+acl +config +info +client +memory +slowlog +latency +dbsize +lastsave +bgsave +bgrewriteaof +command"
# Keys of the fleet's own on the broker (`celery_fleet.delivery.keys`).
_FLEET_KEYS = "fleet:*"
# And what the probe for a full broker would write to (`celery_fleet.supervision.broker.ROOM`): everybody asks that.
_ROOM_KEY = "fleet:room"
_RESULT_KEYS = ("celery-task-meta-*", "celery-taskset-meta-*")


def _lists(name: str) -> list[str]:
    r"""A queue's Redis keys: the list itself and those of its lower priorities (`\x06\x16` and a digit)."""
    return [name, f"{name}??[369]"]


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
        # Of any exchange: the application's code names them. Sending by one reads which queues are bound to it.
        written = [*tasks, "_kombu.binding_permanent.*", _ROOM_KEY]
        return ["~_kombu.binding.*", *(f"%W~{key}" for key in written)]
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


# PSUBSCRIBE patterns are compared with the ACL's literally, so they stand here as Celery sends them.
_BROKER_CHANNELS = {
    "worker": ("/0.celery.pidbox", "/0.celeryev/*", "/0.celeryev/worker.*"),
    "beat": ("/0.celeryev/task.sent",),
    "producer": ("/0.celeryev/task.sent",),
    "flower": ("/0.celeryev/*", "/0.celery.pidbox"),
    "operator": ("/0.celeryev/*", "/0.celery.pidbox"),
}


# What a producer gets to ask and to control workers. In a selector of its own: DEL and SET must not reach queues.
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


def _user(name: str, password: str, rules: str) -> str:
    return f"user {name} on >{password} resetchannels -@all +ping {rules}".rstrip()


def knows_setinfo(flavor: str, facts: Mapping[str, Any]) -> bool:
    """Whether a host's server knows `CLIENT SETINFO`, as Redis does from 7.2 on, of which Valkey was made.

    Args:
        flavor: `redis_flavor`.
        facts: `ansible_facts['fleet']` of the host.
    """
    package = str((facts.get("versions") or {}).get("redis-server") or "")
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)", package)
    if flavor != "redis" or not found:
        # A host whose package lists are empty does not know which version it will get.
        return flavor != "redis" or str(facts.get("distribution_version", "12")) != "12"
    return (int(found[1]), int(found[2])) >= (7, 2)


def acl(
    instance: str,
    passwords: Mapping[str, str],
    names: Iterable[str],
    setinfo: bool = False,
    remote_control: bool = False,
) -> str:
    """The ACL file of one Redis instance: one user for each component, with no more than it uses.

    Args:
        instance: `broker` or `results`.
        passwords: Of the users; who has none gets no user.
        names: All queues.
        setinfo: The server knows `CLIENT SETINFO` (7.2 on), which clients send at connect. Older ones refuse
            to start with a rule that they don't know.
        remote_control: celery_producer_remote_control.
    """
    names = list(names)
    # Nobody can log in as it. Its rights are those with which Redis replays its append-only file, where it checks
    # them within MULTI: without them tasks and acknowledgements would be left out at a restart.
    lines = ["user default off resetpass allkeys allchannels +@all"]
    extra = " +client|setinfo" if setinfo else ""
    commands = _BROKER_COMMANDS if instance == "broker" else _RESULTS_COMMANDS
    for component, rules in commands.items():
        if component not in passwords:
            continue
        if instance == "broker":
            keys = _broker_keys(component, names)
            channels = _BROKER_CHANNELS[component]
        else:
            reader = component in ("flower", "operator")
            keys = [
                f"{'%R' if reader else ''}~{key}"
                for key in (_RESULT_KEYS[:1] if reader else _RESULT_KEYS)
            ]
            channels = _RESULT_KEYS[:1] if reader else _RESULT_KEYS
        text = " ".join([rules + extra, *keys, *(f"&{channel}" for channel in channels)])
        if remote_control and (instance, component) == ("broker", "producer"):
            text += f" {_remote_control()}"
        lines.append(_user(component, passwords[component], text))
    if "admin" in passwords:
        lines.append(_user("admin", passwords["admin"], _ADMIN))
    return "\n".join(lines) + "\n"


def environment_text(value: Any) -> str:
    """A value of YAML as an environment variable has it; null is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


# The dynamic linker and the C library read these before a program begins, `env -i` included.
_BEFORE_MAIN = re.compile(r"LD_.*|GCONV_PATH|GLIBC_TUNABLES|LOCPATH")
# `celery_fleet.system.launch` takes this off again.
_CARRIED = "CELERY_FLEET_ENV_"


def environment_file(values: Mapping[str, Any] | None) -> str:
    """The text of a systemd environment file: each value in double quotes, as systemd.exec(5) reads them.

    A line break within the quotes is part of the value, so that a key in PEM form can be one.

    systemd also gives a unit's variables to the commands that it runs for it as root. Those by which a library of the
    application's could become root have another name in the file; only the process gets them by their own.

    Raises:
        ValueError: A name that systemd would pass over in silence.
    """
    lines = []
    for name, value in (values or {}).items():
        if not _VARIABLE.fullmatch(str(name)):
            raise ValueError(f"{name} can't be the name of an environment variable")
        text = environment_text(value)
        escaped = (
            text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
        )
        prefix = _CARRIED if _BEFORE_MAIN.fullmatch(str(name)) else ""
        lines.append(f'{prefix}{name}="{escaped}"')
    return "\n".join(lines) + ("\n" if lines else "")


def url(parts: Mapping[str, Any]) -> str:
    """One URL of its parts, each percent-encoded, so that any password is taken for what it is.

    A host that is a path, as libpq takes one for a directory of sockets, is encoded whole; an IPv6 address stands in
    brackets.

    Args:
        parts: `scheme` and `host`, and any of `port`, `user`, `password`, `path` and `query` (name to value; a list of
            values is the name several times).
    """

    def text(name: str, safe: str = "") -> str:
        return quote(environment_text(parts.get(name)), safe=safe)

    login = text("user") + (f":{text('password')}" if parts.get("password") is not None else "")
    host = environment_text(parts["host"])
    address = f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")
    port = f":{int(parts['port'])}" if parts.get("port") is not None else ""
    # Not as a form has it: to libpq a `+` is a plus sign, not a blank.
    query = "&".join(
        f"{quote(str(name), safe='')}={quote(environment_text(value), safe='')}"
        for name, given in (parts.get("query") or {}).items()
        for value in (given if isinstance(given, (list, tuple)) else [given])
    )
    path = environment_text(parts.get("path")).removeprefix("/")
    return "".join(
        (
            f"{parts['scheme']}://",
            f"{login}@" if login else "",
            address,
            port,
            f"/{quote(path, safe='/')}" if path else "",
            f"?{query}" if query else "",
        )
    )


def urls(given: Mapping[str, Mapping[str, Any]] | None) -> dict[str, str]:
    """celery_app_urls as variables of the environment."""
    return {str(name): url(parts) for name, parts in (given or {}).items()}


# Where a host's check of its health leaves its result, below that by the name of the application.
HEALTH = "/var/lib/celery-fleet/health"


def process_environment(
    component: str,
    runtime: str,
    command: str,
    extra: Mapping[str, Any] | None = None,
    app: str = "",
) -> dict[str, Any]:
    """The environment that makes a process one of the fleet: loader, runtime and command line.

    With the name of the application also where the host's health stands.
    """
    return {
        **(extra or {}),
        **({"CELERY_FLEET_HEALTH": f"{HEALTH}/{app}.json"} if app else {}),
        "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
        "PYTHONPATH": runtime,
        "PYTHONUNBUFFERED": "1",
        "CELERY_FLEET_COMPONENT": component,
        "CELERY_FLEET_ARGS": command,
    }


def worker_units(
    enabled: Iterable[str],
    app: str,
    directory: str,
    root: str,
    runtime: str,
    timeout: float,
    client: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The units of a host's workers with what their processes read at start, as `settle` takes them.

    The arguments are those of `worker_state`.
    """
    return [
        {
            "name": f"{app}-worker@{name}.service",
            "files": [
                f"{directory}/worker-{name}.env",
                f"{directory}/app.env",
                f"{directory}/credentials/secret.env",
                f"{directory}/credentials/worker.json",
                *(client or {}).values(),
            ],
            "links": [f"{root}/pins/worker-{name}"],
            "values": {"runtime": posixpath.basename(runtime)},
            "timeout": timeout,
        }
        for name in enabled
    ]


def worker_state(
    instances: Mapping[str, Mapping[str, Any] | None],
    *,
    enabled: Sequence[str],
    defaults: Mapping[str, Any] | None,
    app: str,
    module: str,
    host: str,
    directory: str,
    root: str,
    release: str,
    runtime: str,
    timeout: float,
    logs: str = "",
    delivery: str = "inherit",
    knobs: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    client: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All that the workers of one host need there, in the form that `settle` takes.

    Args:
        instances: celery_worker_instances.
        enabled: Names of those that the host takes.
        defaults: Options of all workers.
        app: Name of the application.
        module: What `celery -A` takes.
        host: The host's name in the inventory, second half of each node name.
        directory: Of the application's configuration.
        root: Of its releases.
        release: Name of the release that the workers run.
        runtime: Directory of the fleet's runtime.
        timeout: Seconds until a worker has to consume.
        logs: Directory of its log file; without one it logs to the journal.
        delivery: celery_app_delivery.
        knobs: How tasks are delivered; see `delivery`.
        settings: celery_app_settings.
        client: As for `process_settings`.
    """
    directories: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    for name in enabled:
        options = worker_options(name, instances, defaults)
        node = f"{name}@{host}"
        unit = f"{app}-worker@{name}.service"
        environment = f"{directory}/worker-{name}.env"
        drop_in = f"/etc/systemd/system/{unit}.d"
        pin = f"{root}/pins/worker-{name}"
        # A second instance, while this one restarts, appends to the same file.
        log = f"{logs}/celery_{name}.log" if logs else ""
        command = worker_command(module, node, options, log)
        variables = process_environment("worker", runtime, command, options.get("environment"), app)
        variables["CELERY_FLEET_NODE"] = node
        variables |= variable(override(delivery, knobs, options, settings))
        directories.append({"path": drop_in})
        files.append({"dest": environment, "content": environment_file(variables)})
        files.append(
            {
                "dest": f"{drop_in}/10-fleet.conf",
                "src": "systemd/worker.conf.j2",
                "vars": {
                    "worker": options,
                    "drain": drain_timeout(options),
                    # Threads would run to their end what they hand back, and greenlets hand back nothing.
                    "may_quit": options.get("pool", "prefork") in ("prefork", "solo"),
                    "hand_back": delivery_parts(delivery, knobs, options)["hand_back"],
                },
            }
        )
        links.append({"path": pin, "target": f"../releases/{release}"})
    return {
        "directories": directories,
        "files": files,
        "links": links,
        "units": worker_units(enabled, app, directory, root, runtime, timeout, client),
        "owned": {
            "units": [f"{app}-worker@*.service"],
            "files": [
                f"{directory}/worker-*.env",
                f"{root}/pins/worker-*",
                f"/etc/systemd/system/{app}-worker@*.service.d/10-fleet.conf",
            ],
        },
    }


def nodes(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    instances: Mapping[str, Mapping[str, Any] | None],
) -> dict[str, dict[str, Any]]:
    """Every worker of the fleet by its node name, with host, worker, unit and queues, from the inventory alone.

    Args:
        hostvars: Ansible's, of which `celery_app_name` and those of celery_worker are read.
        hosts: The group celery_workers.
        instances: celery_worker_instances, for hosts that say nothing of their own.
    """
    found = {}
    for host in hosts:
        variables = hostvars[host]
        own = variables.get("celery_worker_instances") or instances
        enabled = variables.get("celery_worker_enabled")
        # An empty list is an answer: this host takes none.
        for name in own if enabled is None else enabled:
            options = worker_options(name, own, variables.get("celery_worker_defaults"))
            found[f"{name}@{host}"] = {
                "host": host,
                "worker": name,
                "unit": f"{variables['celery_app_name']}-worker@{name}.service",
                "queues": options["queues"],
                "pool": str(options.get("pool") or "prefork"),
            }
    return found


def consumed(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    instances: Mapping[str, Mapping[str, Any] | None],
) -> list[str]:
    """Every queue that a worker of the fleet consumes, sorted; the arguments are those of `nodes`."""
    return sorted(
        {q for node in nodes(hostvars, hosts, instances).values() for q in node["queues"]}
    )


def routed(
    task: str, routes: Mapping[str, Mapping[str, Any] | str] | None, default: str = DEFAULT_QUEUE
) -> str:
    """The queue that `task_routes` gives a task: an exact name first, then the patterns in their order.

    Celery takes the mere name of a queue for a route, too.
    """
    found = (routes or {}).get(task)
    if found is None:
        found = next(
            (
                route
                for name, route in (routes or {}).items()
                if "*" in name and fnmatch.fnmatchcase(task, name)
            ),
            {},
        )
    if isinstance(found, str):
        return found
    return str(found.get("queue") or default)


def scheduled(
    schedule: Mapping[str, Mapping[str, Any]], routes: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, str]]:
    """Task and queue of each entry that is enabled."""
    return {
        name: {
            "task": str(entry["task"]),
            "queue": str(entry.get("queue") or routed(str(entry["task"]), routes)),
        }
        for name, entry in schedule.items()
        if entry.get("enabled", True)
    }


def redis_state(
    instances: Iterable[Mapping[str, Any]],
    config: str,
    tls: str,
    passwords: Mapping[str, str],
    names: Sequence[str],
    host: str,
    ca: str,
    timeout: float,
    flavor: str = "redis",
    setinfo: bool = False,
    client: Mapping[str, str] | None = None,
    remote_control: bool = False,
) -> dict[str, Any]:
    """All that the Redis instances of a host need there, in the form that `settle` takes.

    Args:
        instances: Each with `kind` (broker or results) and `name`, and what the configuration's template reads.
        config: Directory of the instances' configuration.
        tls: Directory of the host's certificate.
        passwords: Of the ACL users.
        names: All queues.
        host: A name or an address under which the host reaches itself.
        ca: Path, on the host, of the certificate that signs its own.
        timeout: Seconds until an instance has to serve.
        flavor: `redis` or `valkey`: which server it is, and what its Unix user is called.
        setinfo: See `acl`.
        client: As for `process_settings`, where clients show a certificate: then Redis reads their authorities, too.
        remote_control: See `acl`.
    """
    directories: list[dict[str, Any]] = [{"path": "/etc/celery-fleet"}, {"path": config}]
    files: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    units: list[dict[str, Any]] = []
    for instance in instances:
        own = f"{config}/{instance['name']}"
        unit = f"redis@{instance['name']}.service"
        drop_in = f"/etc/systemd/system/{unit}.d"
        directories += [{"path": own}, {"path": drop_in}]
        files += [
            {"dest": f"{drop_in}/10-fleet.conf", "src": "systemd/redis.conf.j2"},
            {
                "dest": f"{own}/redis.conf",
                "src": "redis/redis.conf.j2",
                "vars": {"redis_instance": dict(instance)},
            },
            {
                "dest": f"{own}/users.acl",
                "content": acl(str(instance["kind"]), passwords, names, setinfo, remote_control),
                "group": flavor,
                "mode": "0640",
                "secret": True,
            },
        ]
        read = [f"{own}/redis.conf", f"{own}/users.acl"]
        checks.append({"redis": read[0], "flavor": flavor, "files": read})
        units.append(
            {
                "name": unit,
                "on_change": "live",
                "timeout": timeout,
                "files": [
                    *read,
                    f"{tls}/host.crt",
                    f"{tls}/host.key",
                    *([f"{tls}/ca.crt"] if client else []),
                ],
                "redis": {
                    "host": host,
                    "port": int(instance["port"]),
                    "ca": ca,
                    "user": "admin",
                    "password": passwords["admin"],
                    # In its RuntimeDirectory=, which goes with its process.
                    "staged_key": f"/run/redis-{instance['name']}/host.key",
                    **(client or {}),
                },
            }
        )
    return {"directories": directories, "files": files, "checks": checks, "units": units}


def site(
    name: str,
    *,
    app: str,
    directory: str,
    port: int,
    socket: str,
    protected: Sequence[str],
    password_line: str,
    read_timeout: float,
    ipv6: bool,
) -> dict[str, Any]:
    """An nginx site in front of a socket, in the form that `settle` takes.

    What other components add to the site of `web` lies in a directory of its own, which the site includes.

    Args:
        name: `web` or `flower`; what stands after the application's name in its files.
        app: Name of the application.
        directory: Of the application's configuration.
        port: TLS port.
        socket: Path of the Unix socket that answers, or `ADDRESS:PORT`; without one the site holds what others add to
            it alone.
        protected: Path prefixes that ask for a password; `/` is all of them.
        password_line: Name and password for them, as a line of an htpasswd file.
        read_timeout: Seconds that nginx waits for an answer.
        ipv6: Whether nginx listens on IPv6, too.
    """
    configuration = f"/etc/nginx/conf.d/{app}-{name}.conf"
    parts = _added(directory)
    file = {
        "dest": configuration,
        "src": "nginx/site.conf.j2",
        "vars": {
            "site": {
                "name": name,
                "port": port,
                "socket": socket,
                "protected": list(protected),
                "htpasswd": _htpasswd(directory, name),
                "read_timeout": read_timeout,
                "ipv6": ipv6,
                "added": parts if name == "web" else "",
            }
        },
    }
    line = password_line if protected else ""
    return _proxied(name, directory, file, line, [{"path": parts}] if name == "web" else [])


def location(
    name: str,
    *,
    directory: str,
    prefix: str,
    socket: str,
    password_line: str,
    read_timeout: float,
) -> dict[str, Any]:
    """A location of the site `web`, all behind a password, in front of a unix socket of another component.

    Args:
        name: Of the component.
        directory: Of the application's configuration.
        prefix: Path without slashes at its ends.
        socket: Unix socket that answers.
        password_line: Name and password, as a line of an htpasswd file.
        read_timeout: Seconds that nginx waits for an answer.
    """
    parts = _added(directory)
    file = {
        "dest": f"{parts}/{name}.conf",
        "src": "nginx/location.conf.j2",
        "vars": {
            "site": {
                # The variables of its map are the site's.
                "name": "web",
                "realm": name,
                "prefix": prefix,
                "socket": socket,
                "htpasswd": _htpasswd(directory, name),
                "read_timeout": read_timeout,
            }
        },
    }
    return _proxied(name, directory, file, password_line, [{"path": parts}])


def slice_unit(app: str) -> str:
    r"""The slice of an application's units. A dash would nest it: `flash-promos.slice` lies within `flash.slice`."""
    return app.replace("-", r"\x2d") + ".slice"


def path_prefix(text: str | None) -> str:
    """A path prefix without slashes at its ends."""
    return (text or "").strip("/")


def _added(directory: str) -> str:
    return f"{directory}/nginx-web"


def _htpasswd(directory: str, name: str) -> str:
    return f"{directory}/credentials-nginx/{name}.htpasswd"


def _proxied(
    name: str,
    directory: str,
    file: dict[str, Any],
    password_line: str,
    directories: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """One file of nginx's, with the password that it asks for, and nginx itself."""
    drop_in = "/etc/systemd/system/nginx.service.d"
    files = [{"dest": f"{drop_in}/10-celery-fleet.conf", "src": "systemd/nginx.conf.j2"}, file]
    if password_line:
        files.append(
            {
                "dest": _htpasswd(directory, name),
                "content": password_line,
                "group": "www-data",
                "mode": "0640",
                "secret": True,
            }
        )
    passwords = {"path": f"{directory}/credentials-nginx", "group": "www-data", "mode": "0750"}
    return {
        # Without a protected path the password of before is of no use.
        **({} if password_line else {"owned": {"files": [_htpasswd(directory, name)]}}),
        # The package brings conf.d; whoever deleted it as empty gets it back.
        "directories": [passwords, *directories, {"path": drop_in}, {"path": "/etc/nginx/conf.d"}],
        "files": files,
        "checks": [{"command": ["nginx", "-t", "-q"], "files": [file["dest"]]}],
        "units": [
            {
                "name": "nginx.service",
                "on_change": "reload",
                "hint": "Addresses that are taken stand in /var/log/nginx/error.log alone.",
                # All sites of the host, whichever application's: they share one nginx.
                "files": [
                    "/etc/nginx/conf.d/*.conf",
                    "/etc/celery-fleet/*/nginx-web/*.conf",
                    "/etc/celery-fleet/*/pki/host.*",
                ],
            }
        ],
    }


# The roles, and so the tags, that start a component.
_ROLES: dict[str, tuple[str, ...]] = {
    "worker": ("celery_worker",),
    "beat": ("celery_beat",),
    "web": ("celery_producer",),
    "web_site": ("celery_producer",),
    "flower": ("flower",),
    "flower_site": ("flower",),
    "flower_location": ("flower",),
    # Of workers and beat: written by celery_runtime, as is what else they share.
    "logs": ("celery_worker",),
    # The last that reads what it leaves.
    "release": ("celery_producer",),
    # All whose processes read it: one that this run does not end could not start again without it.
    "secrets": ("celery_worker", "celery_beat", "celery_producer"),
    "environment": ("celery_worker", "celery_beat", "celery_producer", "flower"),
}


def surplus(
    app: str,
    components: Sequence[str],
    directory: str,
    root: str,
    run: Iterable[str] = ("all",),
    skip: Iterable[str] = (),
) -> dict[str, list[str]]:
    """What a host must not run any more, by what it is for: `owned` of `settle`.

    A beat that was moved in the inventory and stayed on its old host would send everything twice.

    Args:
        app: Name of the application.
        components: Those that the host has: worker, beat, producer, web, web_site, flower, and either flower_site or
            flower_location; logs, where workers or beat log to files.
        directory: Of the application's configuration.
        root: Of its releases.
        run: Tags of the run: what it starts nowhere it ends nowhere.
        skip: Tags that it leaves out.
    """
    units = "/etc/systemd/system"
    sites = "/etc/nginx/conf.d"
    owned: dict[str, tuple[list[str], list[str]]] = {
        "worker": (
            [f"{app}-worker@*.service"],
            [
                f"{directory}/worker-*.env",
                f"{directory}/credentials/worker.json",
                f"{root}/pins/worker-*",
                f"{units}/{app}-worker@.service",
                f"{units}/{app}-worker@*.service.d/10-fleet.conf",
            ],
        ),
        "beat": (
            [f"{app}-beat.service"],
            [
                f"{directory}/beat.env",
                f"{directory}/credentials/beat.json",
                f"{directory}/credentials/schedule.json",
                f"{root}/pins/beat",
                f"{units}/{app}-beat.service",
            ],
        ),
        "web": (
            [f"{app}-web.socket", f"{app}-web.service"],
            [
                f"{directory}/web.env",
                f"{root}/pins/web",
                f"{units}/{app}-web.socket",
                f"{units}/{app}-web.service",
                f"/run/{app}-web.sock",
            ],
        ),
        "web_site": (
            [],
            [f"{directory}/credentials-nginx/web.htpasswd", f"{sites}/{app}-web.conf"],
        ),
        "flower": (
            [f"{app}-flower.service"],
            [
                f"{directory}/flower.env",
                f"{directory}/credentials/flower.*",
                f"{root}/pins/flower",
                f"{units}/{app}-flower.service",
                f"{directory}/credentials-nginx/flower.htpasswd",
            ],
        ),
        "flower_site": ([], [f"{sites}/{app}-flower.conf"]),
        "logs": ([], [f"/etc/logrotate.d/{app}"]),
        "flower_location": ([], [f"{_added(directory)}/flower.conf"]),
        # Not the web process's alone: a host with a release has it for the release's commands as well.
        "release": ([], [f"{directory}/credentials/producer.json"]),
        "secrets": ([], [f"{directory}/credentials/secret.env"]),
        "environment": ([], [f"{directory}/app.env"]),
    }
    present = set(components)
    if present & {"worker", "beat", "producer", "web"}:
        present |= {"release", "secrets", "environment"}
    if "flower" in present:
        present.add("environment")
    tags, left_out = set(run), set(skip)
    whole = not tags.isdisjoint(("all", "deploy", "configure"))
    absent = [
        owned[name]
        for name in owned
        if name not in present
        and (whole or tags.issuperset(_ROLES[name]))
        and left_out.isdisjoint(_ROLES[name])
    ]
    return {
        "units": [unit for names, _ in absent for unit in names],
        "files": [path for _, paths in absent for path in paths],
    }


def visibility_timeout(
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    delivery: str = "inherit",
    knobs: Mapping[str, Any] | None = None,
) -> int:
    """Seconds after which an unacknowledged task is given to another worker, such that none still has it.

    Where all workers renew what they hold, it is their lease. Else those that don't renew count: such a worker takes
    `prefetch_multiplier` tasks ahead for each process, so the last of them may wait that many time limits, and then
    its drain. At least Celery's own default of an hour then.

    Args:
        instances: celery_worker_instances.
        defaults: celery_worker_defaults.
        settings: celery_app_settings, which bound what a worker's own options leave open.
        delivery: celery_app_delivery.
        knobs: How tasks are delivered; see `delivery`.
    """
    workers = [worker_options(name, instances, defaults) for name in instances]
    without = [one for one in workers if not delivery_parts(delivery, knobs, one)["lease"]]
    if workers and not without:
        return LEASE
    return _longest_hold(
        (options, promise_of(options, delivery), settings or {}) for options in without
    )


def stock_visibility(
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    given: float = 0,
) -> int:
    """Seconds after which a worker with a lease may take what one without has, which renews nothing.

    Longer than any of these workers could hold a task on the stock take, whatever was promised: while a fleet goes
    from one promise to another, workers of both kinds run, and the lease would be much too short for the one.

    Args:
        instances: celery_worker_instances.
        defaults: celery_worker_defaults.
        settings: celery_app_settings.
        given: celery_app_visibility_timeout, than which it is never less.
    """
    workers = (worker_options(name, instances, defaults) for name in instances)
    longest = _longest_hold((options, "inherit", settings or {}) for options in workers)
    return max(longest, math.ceil(float(given)))


def _longest_hold(workers: Iterable[tuple[Mapping[str, Any], str, Mapping[str, Any]]]) -> int:
    """Seconds, at least an hour; of each worker its options, its promise and the application's settings."""
    longest = 3600.0
    for options, promise, settings in workers:
        limit = options.get("time_limit")
        if limit is None:
            limit = settings.get("task_time_limit")
        if limit is None:
            continue
        ahead = options.get("prefetch_multiplier")
        if ahead is None:
            ahead = settings.get("worker_prefetch_multiplier")
        # Celery's own default is four; 0 is no bound at all, for which no timeout would be long enough.
        promised = SETTINGS[promise].get("worker_prefetch_multiplier", 4)
        held = float(ahead or promised) * float(limit) + drain_timeout(options)
        longest = max(longest, held)
    return math.ceil(longest)
