"""What the rules, the targets and the dashboard need to know about a fleet, from the inventory only."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from .. import health
from ..backup_options import VARIABLE, interval
from ..exporters import others
from ..facts import Facts
from ..health import Threshold
from ..workers import drain_timeout, worker_options
from .objectives import Objective, objectives

# Thresholds of celery_monitoring_thresholds. Those of celery_health_thresholds hold as well.
THRESHOLDS: Final[Mapping[str, Threshold]] = {
    # How long the oldest message of a queue has waited. `queues` has other values for single queues.
    "queue_age_seconds": Threshold(300, 1800),
    # Of a task's runs in five minutes, if there were ten at least.
    "tasks_failed_percent": Threshold(50, None),
}
# With an SLO for the wait, the defaults of its queues' age are these multiples of it.
_AGES: Final = (2, 12)
PORT: Final = 9808
_Value = TypeVar("_Value", bound=Hashable)


@dataclass(frozen=True)
class MonitoredHost:
    """A host with an exporter.

    Attributes:
        name: Its name in the inventory.
        address: Address and port of its exporter; empty if it only listens on its loopback.
        thresholds: Those of both variables, by name, each with `warning` and `bad`.
        queue_ages: Thresholds for the age of single queues.
        stale: Seconds after which a result of its health check is too old; 0 if it has no check.
        others: Labels of other exporters that its site passes on, by their path.
        backup: Seconds between two backups of its Redis; 0 if it makes none.
    """

    name: str
    address: str
    thresholds: Mapping[str, Any]
    queue_ages: Mapping[str, Mapping[str, Any]]
    stale: float
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    backup: float = 0


@dataclass(frozen=True)
class MonitoredWorker:
    """A worker of the inventory, on all its hosts.

    Attributes:
        hosts: Its hosts that have an exporter, each with the queues that it consumes there.
        queues: Queues that it consumes on any host.
        slos: Its SLOs.
    """

    name: str
    hosts: Mapping[str, Sequence[str]]
    queues: Sequence[str]
    slos: Sequence[Objective]


@dataclass(frozen=True)
class MonitoredFleet:
    """An application's fleet.

    Attributes:
        app: The application's name, and the label of all its metrics.
        collector: The host with the exporter that asks Redis.
        replicas: Number of replicas that a primary of Redis should have; 0 with one host of Redis.
        beats: Beat's hosts, of which one sends; none if one of them has no exporter.
        beat_interval: Seconds after which beat looks at its schedule again.
        external: Queues that only others consume.
        uncounted: Queues of which it is not known who consumes them: a worker counts nothing, or has no exporter.
        drain: Seconds of the longest drain.
        runbook: Address of the runbook.
    """

    app: str
    hosts: Mapping[str, MonitoredHost]
    workers: Sequence[MonitoredWorker]
    queues: Sequence[str]
    external: Sequence[str]
    uncounted: Sequence[str]
    collector: str
    replicas: int
    beats: Sequence[str]
    beat_interval: float
    visibility_timeout: float
    drain: float
    runbook: str

    def of(self, metric: str, *matchers: str, **labels: str) -> str:
        """Return a metric of this application with labels: a selector, and also the text of a series for tests."""
        own = [f"{name}={quoted(value)}" for name, value in {"app": self.app, **labels}.items()]
        return f"{metric}{{{','.join([*own, *filter(None, matchers)])}}}"

    def by_host(self, name: str) -> dict[str, Threshold]:
        """Return the threshold of each host."""
        low = health.THRESHOLDS[name].low
        return {
            host.name: Threshold(low=low, **host.thresholds[name]) for host in self.hosts.values()
        }

    @property
    def thresholds(self) -> Mapping[str, Any]:
        """The thresholds of what belongs to the whole fleet."""
        return self.hosts[self.collector].thresholds

    def threshold(self, name: str) -> Threshold:
        """Return a threshold of what belongs to the whole fleet."""
        return Threshold(**self.thresholds[name])

    def queue_lengths(self) -> dict[str, Threshold]:
        """Return the threshold for the length of each queue."""
        own = self.thresholds[health.QUEUES]
        general = self.thresholds["queue_length"]
        return {queue: Threshold(**{**general, **own.get(queue, {})}) for queue in self.queues}

    def queue_ages(self) -> dict[str, Threshold]:
        """Return the threshold for the age of each queue; an SLO for its wait decides if the inventory does not."""
        waits: dict[str, float] = {}
        for worker in self.workers:
            for slo in worker.slos:
                for queue in worker.queues if slo.kind == "wait" else ():
                    waits[queue] = min(slo.seconds, waits.get(queue, slo.seconds))
        general, own = (
            self.thresholds["queue_age_seconds"],
            self.hosts[self.collector].queue_ages,
        )
        found = {}
        for queue in self.queues:
            bounds = dict(general)
            if queue in waits:
                warning, bad = (factor * waits[queue] for factor in _AGES)
                bounds = {"warning": warning, "bad": bad}
            found[queue] = Threshold(**{**bounds, **own.get(queue, {})})
        return found


def quoted(text: str) -> str:
    """Return a string of PromQL."""
    return json.dumps(text, ensure_ascii=False)


def grouped(
    label: str, values: Mapping[str, _Value], out_of: Collection[str]
) -> list[tuple[_Value, str, list[str]]]:
    """Return each different value with a matcher for the names that have it, and these names.

    Args:
        label: The label with the names.
        values: Value of each name.
        out_of: All names. If all have the same value, the matcher is empty.
    """
    found: dict[_Value, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return [
        (value, "" if len(names) == len(out_of) else f"{label}=~{any_of(names)}", names)
        for value, names in found.items()
    ]


def any_of(names: Iterable[str]) -> str:
    """Return a regular expression for names, as a string of PromQL."""
    return quoted("|".join(re.escape(name) for name in names))


def fleet(
    facts: Facts,
    hostvars: Mapping[str, Mapping[str, Any]],
    instances: Mapping[str, Mapping[str, Any] | None],
    runbook: str,
) -> MonitoredFleet:
    """Return a fleet as the inventory has it.

    Args:
        facts: The application's facts.
        hostvars: Ansible's `hostvars`. Defaults of roles are not among them, so they are repeated here.
        instances: celery_worker_instances for hosts that don't set it.
        runbook: Address of the runbook.

    Raises:
        ValueError: The host that asks Redis has no exporter, so nothing would be known about the fleet as a whole.
    """
    groups = facts["groups"]
    hosts = {
        name: _host(facts, name, hostvars[name])
        for name in groups["fleet"]
        if hostvars[name].get("celery_exporter_enabled", False)
    }
    order = ("redis", "celery_beat", "celery_workers")
    collector = next(host for group in order for host in groups.get(group, ()))
    if collector not in hosts:
        raise ValueError(
            f"{collector} has no exporter, and it is the host that asks Redis. Set celery_exporter_enabled: true for "
            "all hosts of the fleet"
        )
    workers: dict[str, MonitoredWorker] = {}
    drains = []
    uncounted: set[str] = set()
    for node in facts["nodes"].values():
        variables = hostvars[node["host"]]
        options = worker_options(
            node["worker"],
            variables.get("celery_worker_instances") or instances,
            variables.get("celery_worker_defaults"),
        )
        drains.append(drain_timeout(options))
        name = node["worker"]
        before = workers.get(name, MonitoredWorker(name, {}, (), ()))
        here = {node["host"]: node["queues"]} if node["host"] in hosts else {}
        if not here or not facts["metrics"]:
            uncounted.update(node["queues"])
        workers[name] = MonitoredWorker(
            name,
            {**before.hosts, **here},
            list(dict.fromkeys([*before.queues, *node["queues"]])),
            objectives(options.get("slo") or {}),
        )
    beats = groups.get("celery_beat", ())
    return MonitoredFleet(
        app=facts["name"],
        hosts=hosts,
        workers=tuple(workers.values()),
        queues=facts["queues"],
        external=facts["external"],
        uncounted=sorted(uncounted),
        collector=collector,
        replicas=max(len(groups.get("redis", ())) - 1, 0),
        beats=beats if hosts.keys() >= {*beats} else (),
        beat_interval=max(
            (float(hostvars[name].get("celery_beat_max_loop_interval", 5)) for name in beats),
            default=0,
        ),
        visibility_timeout=float(facts["visibility_timeout"]),
        drain=max(drains, default=0),
        runbook=runbook or "docs/runbook.md",
    )


def _host(facts: Facts, name: str, variables: Mapping[str, Any]) -> MonitoredHost:
    given = variables.get("celery_monitoring_thresholds") or {}
    own = health.merged(given, THRESHOLDS)
    checked = variables.get("celery_health_enabled", True)
    address = (variables.get("celery_app_host_names") or [name])[0]
    address = f"[{address}]" if ":" in address else address
    port = variables.get("celery_exporter_port", PORT)
    return MonitoredHost(
        name=name,
        address="" if variables.get("celery_exporter_listen") else f"{address}:{port}",
        thresholds={
            **own,
            **health.merged(variables.get("celery_health_thresholds")),
        },
        queue_ages=own[health.QUEUES],
        stale=2 * float(variables.get("celery_health_interval", 300)) if checked else 0,
        others={path: one.labels for path, one in others(facts, name, variables).items()},
        backup=interval(variables.get(VARIABLE) or {})
        if name in facts["groups"].get("redis", ())
        else 0,
    )
