"""Computes workers from the inventory: their options, queues, command lines, units and nodes.

The functions are plain functions over plain data; `plugins/filter/fleet.py` makes them filters. The values come from
Celery's and kombu's documentation of Redis, and from the measurements that docs/architecture.md describes.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from .delivery import override, variable
from .delivery import parts as delivery_parts
from .environment import environment_file, process_environment
from .facts import Facts, Workers, log_directory
from .monitoring.objectives import seconds
from .option import as_number, flags
from .unit_options import unit_lines
from .worker_options import WORKER

# Seconds that a stopping worker waits if its tasks have no limit. systemd's own 90 s would kill running tasks.
DRAIN = 600.0
# A worker that autoscales has its bounds in this variable.
AUTOSCALE_VARIABLE = "CELERY_FLEET_AUTOSCALE"
# With these pools, a stopping worker returns its unstarted tasks at once, so a second instance may run in the meantime.
OVERLAPPING = ("prefork", "threads", "gevent")


def worker_queues(name: str, options: Mapping[str, Any] | None) -> list[str]:
    """Return the queues of one worker's options; without any, the one with the worker's name."""
    queues = (options or {}).get("queues") or [name]
    return [str(queue) for queue in queues]


def consumed_queues(name: str, options: Mapping[str, Any]) -> list[str]:
    """Return the queues that one worker consumes: those of its options without the excluded ones."""
    excluded = options.get("exclude_queues") or ()
    return [queue for queue in worker_queues(name, options) if queue not in excluded]


def processes(options: Mapping[str, Any]) -> int | None:
    """Return how many tasks a worker runs at once; None if Celery uses the number of the host's processors."""
    if options.get("pool") == "solo":
        return 1
    given = options.get("autoscale")
    largest = as_number(given.get("max")) if isinstance(given, Mapping) else None
    return int(largest or options.get("concurrency") or 0) or None


def autoscale(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `min`, `max` and `wait` (in seconds) of a worker that autoscales; else an empty dictionary.

    Raises:
        ValueError: Preflight would refuse it.
    """
    given = options.get("autoscale")
    if not given:
        return {}
    least, most = as_number(given.get("min")), as_number(given.get("max"))
    wait = seconds(str(given.get("wait")))
    if least is None or most is None or wait is None:
        raise ValueError(f"autoscale can't be understood: {given}")
    return {"min": int(least), "max": int(most), "wait": wait}


def queues(
    instances: Mapping[str, Mapping[str, Any] | None],
    schedule: Mapping[str, Mapping[str, Any]] | None = None,
    routes: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return every queue that the inventory names, sorted: consumed, scheduled or routed to."""
    found = {q for name in instances for q in worker_options(name, instances, defaults)["queues"]}
    found |= {str(entry["queue"]) for entry in (schedule or {}).values() if entry.get("queue")}
    found |= {str(route["queue"]) for route in (routes or {}).values() if route.get("queue")}
    return sorted(found)


def worker_options(
    name: str,
    instances: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one worker's options over the defaults of all."""
    options = {**(defaults or {}), **(instances[name] or {})}
    options["queues"] = worker_queues(name, options)
    return options


def drain_timeout(options: Mapping[str, Any]) -> float:
    """Return the seconds that a stopping worker waits for its running tasks: by default their hard time limit."""
    given = options.get("drain_timeout")
    if given is None:
        given = options.get("time_limit")
    return float(given) if given is not None else DRAIN


def longest_drain(
    instances: Mapping[str, Mapping[str, Any] | None], defaults: Mapping[str, Any] | None = None
) -> float:
    """Return the seconds that the longest drain of any worker may take."""
    return max(
        (drain_timeout(worker_options(name, instances, defaults)) for name in instances),
        default=0.0,
    )


def running(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], app: str
) -> list[dict[str, str]]:
    """Return host and name of every running worker, according to this run's plan."""
    pattern = re.compile(rf"{re.escape(app)}-worker@([^.]+)\.service")
    found = []
    for host in hosts:
        states = (hostvars[host].get("__fleet_plan") or {}).get("states") or {}
        for unit, state in states.items():
            name = pattern.fullmatch(unit)
            if name and state["active"] == "active":
                found.append({"host": host, "worker": name[1]})
    return found


def pool_words(options: Mapping[str, Any]) -> str:
    """Return a worker's number of processes in its own words, ``4`` or ``2 to 10``; "" if Celery chooses it."""
    bounds = autoscale(options)
    return "{min} to {max}".format(**bounds) if bounds else str(options.get("concurrency") or "")


def worker_command(module: str, node: str, options: Mapping[str, Any], logfile: str = "") -> str:
    """Return the command line of one worker, quoted for shlex; `python` means the release's own interpreter."""
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
    bounds = autoscale(options)
    words += flags(WORKER, {**options, "concurrency": bounds["min"]} if bounds else options)
    if logfile:
        words.append(f"--logfile={logfile}")
    return shlex.join(words)


def worker_units(facts: Facts, enabled: Iterable[str], timeout: float) -> list[dict[str, Any]]:
    """Return the desired state of a host's worker units, with the files that their processes read when they start.

    Args:
        facts: The application's facts.
        enabled: Names of the host's workers.
        timeout: Seconds until a worker has to consume.
    """
    directory = facts["directory"]
    return [
        {
            "name": f"{facts['name']}-worker@{name}.service",
            "files": [
                f"{directory}/worker-{name}.env",
                f"{directory}/app.env",
                f"{directory}/credentials/secret.env",
                f"{directory}/credentials/worker.json",
                *facts["client"].values(),
            ],
            "links": [f"{facts['root']}/pins/worker-{name}"],
            "values": {"runtime": posixpath.basename(facts["runtime"])},
            "timeout": timeout,
        }
        for name in enabled
    ]


def worker_state(facts: Facts, workers: Workers, *, release: str, timeout: float) -> dict[str, Any]:
    """Return the desired state of one host's workers.

    Args:
        facts: The application's facts.
        workers: The host's workers.
        release: Name of the release that the workers run.
        timeout: Seconds until a worker has to consume.
    """
    app, directory, root = facts["name"], facts["directory"], facts["root"]
    delivery, knobs, enabled = facts["delivery"], workers["knobs"], workers["enabled"]
    directories: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    data: list[dict[str, Any]] = []
    for name in enabled:
        options = worker_options(name, workers["instances"], workers["defaults"])
        node = f"{name}@{facts['host']}"
        unit = f"{app}-worker@{name}.service"
        environment = f"{directory}/worker-{name}.env"
        drop_in = f"/etc/systemd/system/{unit}.d"
        pin = f"{root}/pins/worker-{name}"
        # While this instance restarts, a second one appends to the same file.
        log = f"{log_directory(app)}/celery_{name}.log" if facts["logs"] == "file" else ""
        command = worker_command(facts["module"], node, options, log)
        variables = process_environment(
            "worker", facts["runtime"], command, options.get("environment"), app
        )
        variables["CELERY_FLEET_NODE"] = node
        variables |= variable(override(delivery, knobs, options, facts["settings"]))
        if bounds := autoscale(options):
            variables[AUTOSCALE_VARIABLE] = json.dumps(bounds, sort_keys=True)
        directories.append({"path": drop_in})
        files.append({"dest": environment, "content": environment_file(variables)})
        files.append(
            {
                "dest": f"{drop_in}/10-fleet.conf",
                "src": "systemd/worker.conf.j2",
                "vars": {
                    "directives": unit_lines(WORKER, options),
                    "drain": drain_timeout(options),
                    # Threads would still finish the tasks that they return, and greenlets return nothing.
                    "may_quit": options.get("pool", "prefork") in ("prefork", "solo"),
                    "hand_back": delivery_parts(delivery, knobs, options)["hand_back"],
                },
            }
        )
        links.append({"path": pin, "target": f"../releases/{release}"})
        # Files of a second instance, which a killed run may leave.
        data += [{"path": f"{directory}/worker-{name}.next.env"}, {"path": f"{pin}.next"}]
    return {
        "directories": directories,
        "files": files,
        "links": links,
        "data": data,
        "units": worker_units(facts, enabled, timeout),
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
    """Return every worker of the fleet by its node name, with host, worker, unit, queues, pool, processes and SLOs.

    Args:
        hostvars: Ansible's `hostvars`, from which `celery_app_name` and the variables of celery_worker are read.
        hosts: The hosts of the group celery_workers.
        instances: celery_worker_instances for hosts that don't set it.
    """
    found = {}
    for host in hosts:
        variables = hostvars[host]
        own = variables.get("celery_worker_instances") or instances
        enabled = variables.get("celery_worker_host_instances")
        # An empty list is a valid value: this host runs no worker.
        for name in own if enabled is None else enabled:
            options = worker_options(name, own, variables.get("celery_worker_defaults"))
            found[f"{name}@{host}"] = {
                "host": host,
                "worker": name,
                "unit": f"{variables['celery_app_name']}-worker@{name}.service",
                "queues": consumed_queues(name, options),
                "pool": str(options.get("pool") or "prefork"),
                **({"processes": words} if (words := pool_words(options)) else {}),
                **({"slo": dict(options["slo"])} if options.get("slo") else {}),
            }
    return found


def consumed(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    instances: Mapping[str, Mapping[str, Any] | None],
) -> list[str]:
    """Return every queue that a worker of the fleet consumes, sorted; the arguments are those of `nodes`."""
    return sorted(
        {q for node in nodes(hostvars, hosts, instances).values() for q in node["queues"]}
    )


def restart_names(only: object) -> list[str]:
    """Return celery_restart_workers as a list; `-e` gives it as a comma-separated string."""
    given = only.split(",") if isinstance(only, str) else only if isinstance(only, list) else ()
    return [name for item in given if (name := str(item).strip())]
