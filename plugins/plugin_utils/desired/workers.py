"""What the roles compute from an application's variables: settings, command lines, ACL lines, queues.

Plain functions over plain data; `plugins/filter/fleet.py` makes them filters. Sources of the values: Celery's
and kombu's documentation of Redis, and what docs/architecture.md says was measured.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.delivery import (
    override,
    variable,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.delivery import (
    parts as delivery_parts,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.environment import (
    environment_file,
    process_environment,
)

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
    data: list[dict[str, Any]] = []
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
        # Of a second instance, which a killed run may leave.
        data += [{"path": f"{directory}/worker-{name}.next.env"}, {"path": f"{pin}.next"}]
    return {
        "directories": directories,
        "files": files,
        "links": links,
        "data": data,
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
