"""Types of an application's facts: what the functions of this package need to know about it, as one mapping.

The role celery_app defines it as `__celery_app_facts`, and the role preflight renders it, once for each host and run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

# Options by the name of a worker; None for a worker with only the defaults.
Instances = Mapping[str, Mapping[str, Any] | None]


class Address(TypedDict):
    """Host and port of a Redis instance, and its whole URL if the fleet does not run it.

    If the instance has replicas, `host` is the host that began as the primary, and `sentinels` are the hosts and ports
    that know where the primary is, by its `name`.
    """

    host: str
    port: int
    url: NotRequired[str]
    name: NotRequired[str]
    sentinels: NotRequired[Sequence[Mapping[str, Any]]]
    # How many replicas must have a task before it counts as sent.
    wait_replicas: NotRequired[int]


class Facts(TypedDict):
    """An application from the point of view of one of its hosts."""

    name: str
    # The name of the inventory that deploys it, celery_app_inventory_name.
    owner: str
    # The argument of `celery -A`.
    module: str
    # Unix user of its processes, and the group that may open its sockets.
    user: str
    proxy_group: str
    # Directories on the host: configuration, releases, state, the fleet's runtime.
    directory: str
    root: str
    state: str
    runtime: str
    # `journal` or `file`.
    logs: str
    # The inventory's variable celery_app_metrics.
    metrics: bool
    # The inventory's variable celery_app_history_mb.
    history: int
    # Path of the authorities' certificates; paths of the `certificate` and `key` that clients show, empty
    # if Redis does not ask for them.
    ca: str
    # Path of the authorities that sign Redis's certificate: `ca`, unless the fleet does not run Redis.
    redis_ca: str
    client: Mapping[str, str]
    broker: Address
    results: Address
    # Answers of servers that the fleet does not run, by `broker` and `results`; see `redis_service.limits`.
    redis_service: Mapping[str, Mapping[str, Any]]
    # Empty without a Redis for the application's cache.
    cache: Address | Mapping[str, Any]
    # The inventory's variables celery_app_delivery, _settings, _task_routes and _visibility_timeout.
    delivery: str
    settings: Mapping[str, Any]
    routes: Mapping[str, Any]
    visibility_timeout: float
    # This host's name in the inventory, its components (worker, beat, producer, web …) and its units.
    host: str
    components: Sequence[str]
    units: Sequence[str]
    # The fleet's groups, all workers by node name as `workers.nodes` returns them, and all queues of the inventory.
    groups: Mapping[str, Sequence[str]]
    nodes: Mapping[str, Mapping[str, Any]]
    queues: Sequence[str]
    # The inventory's variables celery_app_external_queues, which `queues` contains, and celery_app_clients.
    external: Sequence[str]
    clients: Mapping[str, Mapping[str, Any]]
    # The variable celery_beat_scheduler of beat's host.
    scheduler: str
    # Seconds between two backups of Redis on this host; 0 if it makes none.
    backup: float
    # Path of the certificate of this host's web site; empty without a site, and if the site shows the host's own.
    site_certificate: str


class Workers(TypedDict):
    """A host's workers: the variables celery_worker_instances, _host_instances, _defaults and those of delivery."""

    instances: Instances
    enabled: Sequence[str]
    defaults: Mapping[str, Any]
    # See `delivery`.
    knobs: Mapping[str, Any]


class BeatSchedule(TypedDict):
    """Beat's schedule: the variables celery_beat_schedule, _schedule_policy, _scheduler and _schedule_on_edit.

    A beat that reads the entries from the database gets no `entries`. Its `declared` are those of the inventory, of
    which it needs what happens to missed runs; otherwise `declared` is empty. `left_out` names entries of the inventory
    that are in none of them, as the release lacks their tasks.
    """

    entries: Mapping[str, Mapping[str, Any]]
    policy: str
    scheduler: str
    edited: str
    declared: Mapping[str, Mapping[str, Any]]
    left_out: Sequence[str]


class Replication(TypedDict):
    """How a host takes part in the replication."""

    # The host's name, by which replicas, Sentinels and clients reach it.
    host: str
    # The Sentinel's port.
    port: int
    # How many Sentinels have to miss a primary before one of them replaces it.
    quorum: int
    # How many replicas have to be connected so that a primary accepts writes.
    min_replicas: int
    # The server's `replica-priority`.
    priority: int
    # Seconds without an answer after which a Sentinel misses a server.
    down_after: float
    # The addresses of each Redis host by its name; names among them are left to DNS.
    addresses: Mapping[str, Sequence[str]]


class RedisServers(TypedDict):
    """The setup of a host's Redis servers."""

    # Directories of the instances' configuration and of the host's certificate.
    config: str
    tls: str
    # A name or an address with which the host reaches itself.
    host: str
    # Seconds until an instance has to serve.
    timeout: float
    # `redis` or `valkey`: the server, and the name of its Unix user.
    flavor: str
    # See `acl.acl`.
    setinfo: bool
    remote_control: bool
    # How broker and result store are replicated, if they are.
    replication: Replication


def instances(facts: Facts) -> dict[str, Address | Mapping[str, Any]]:
    """Return the addresses of the application's Redis instances by their kind."""
    found = {"broker": facts["broker"], "results": facts["results"], "cache": facts["cache"]}
    return {kind: address for kind, address in found.items() if address}


def has_redbeat(facts: Facts) -> bool:
    """Return whether beat's schedule is on the broker, with celery-redbeat."""
    return facts["scheduler"] == "redbeat" and bool(facts["groups"].get("celery_beat"))


def has_standby(facts: Facts) -> bool:
    """Return whether beats agree on the one that sends.

    With celery-redbeat a single beat does that, too: the same script that sends a message also writes the run, which
    would otherwise be lost if beat died in between.
    """
    return len(facts["groups"].get("celery_beat", ())) > 1 or has_redbeat(facts)


def log_directory(app: str) -> str:
    """Return the directory of the log files of an application's workers and beat."""
    return f"/var/log/{app}"
