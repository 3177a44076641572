"""Lists the workers of a roll, combining the inventory, the plan and the workers that answer.

Pure functions on the control node; the action plugin `rolling_restart` collects the answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils import routing

from ..desired import workers as desired_workers
from ..desired.kept_release import is_pattern
from .order import STAND_IN, FleetWorker, Need, Presence

# The need of a worker, by the action of its unit in the plan.
_NEEDS: Mapping[str, Need] = {
    "start": "start",
    "restart": "restart",
    "remove": "remove",
}


def active_units(variables: Mapping[str, Any]) -> list[str]:
    """Return a host's active units, from its plan or, without a plan, from a separate query."""
    planned = (variables.get("__fleet_plan") or {}).get("states") or {}
    looked = (variables.get("__celery_worker_seen") or {}).get("units") or {}
    return [
        *(unit for unit, state in planned.items() if state["active"] == "active"),
        *(unit for unit, state in looked.items() if state.get("ActiveState") == "active"),
    ]


@dataclass(frozen=True)
class Findings:
    """A run's knowledge of the fleet's workers.

    Attributes:
        present: Hosts that this run reaches.
        items: Items of the plan, each with host, subject (a unit) and action.
        census: Queues, processes and pid of each node that answers.
        active: Units that are active in systemd, by host. Such a worker consumes; otherwise its watchdog would have
            ended it. Don't consider it idle if it does not answer, for example because a solo pool is running a task.
        left: Names of second instances that an earlier run has left behind, by host. Some of them may not answer.
    """

    present: Sequence[str]
    items: Sequence[Mapping[str, Any]]
    census: Mapping[str, Mapping[str, Any]]
    active: Mapping[str, Iterable[str]]
    left: Mapping[str, Iterable[str]]


def workers(
    app: str,
    hostvars: Mapping[str, Mapping[str, Any]],
    inventory: Sequence[str],
    instances: Mapping[str, Mapping[str, Any] | None],
    findings: Findings,
    *,
    force: bool = False,
    only: Sequence[str] = (),
) -> list[FleetWorker]:
    """Return every worker of the fleet with the action that it needs, in the order of the inventory.

    Args:
        app: Name of the application.
        hostvars: Ansible's hostvars.
        inventory: Hosts of the group celery_workers.
        instances: celery_worker_instances, for hosts that don't set it themselves.
        findings: The run's knowledge of the workers.
        force: Restart workers even if nothing differs.
        only: Names of the workers that may be restarted; empty for all.
    """
    census = findings.census
    here = set(findings.present)
    unit = re.compile(rf"{re.escape(app)}-worker@(.+)\.service")
    pending: dict[str, Need] = {}
    found: list[FleetWorker] = []
    for item in findings.items:
        match = unit.fullmatch(str(item["subject"]))
        if match and item["host"] in here and item["action"] in _NEEDS:
            pending[f"{match[1]}@{item['host']}"] = _NEEDS[str(item["action"])]
    for node in (
        *census,
        *(f"{name}@{host}" for host, names in findings.left.items() for name in names),
    ):
        name, _, host = node.partition("@")
        if name.endswith(STAND_IN) and host in here:
            # An earlier run that was killed has left it behind.
            pending.setdefault(node, "remove")
    for node, wanted in desired_workers.nodes(hostvars, inventory, instances).items():
        host, name = str(wanted["host"]), str(wanted["worker"])
        need = pending.pop(node, "")
        if force and not need and host in here:
            need = "restart"
        if need == "restart" and only and name not in only:
            need = ""
        variables = hostvars[host]
        own = variables.get("celery_worker_instances") or instances
        options = desired_workers.worker_options(name, own, variables.get("celery_worker_defaults"))
        seen = census.get(node)
        found.append(
            FleetWorker(
                node=node,
                host=host,
                unit=str(wanted["unit"]),
                name=name,
                queues=tuple(str(queue) for queue in wanted["queues"]),
                processes=_processes(options, seen),
                pool=str(options.get("pool") or "prefork"),
                overlap=options.get("overlap"),
                presence=_presence(
                    wanted["queues"],
                    seen,
                    wanted["unit"] in findings.active.get(host, ()),
                    host in here,
                ),
                need=need,
                busy=int((seen or {}).get("ended") or 0),
            )
        )
    for node, need in pending.items():
        # The remaining workers are not in the inventory.
        name, _, host = node.partition("@")
        seen = census.get(node, {})
        queues = tuple(str(queue) for queue in seen.get("queues", ()))
        found.append(
            FleetWorker(
                node=node,
                host=host,
                unit=f"{app}-worker@{name}.service",
                name=name,
                queues=queues,
                processes=max(1, int(seen.get("processes") or 1)),
                presence="serving" if queues else "inactive",
                need=need,
            )
        )
    return found


def _processes(options: Mapping[str, Any], seen: Mapping[str, Any] | None) -> int:
    """Return how many tasks a worker runs at once, from the inventory or else from the worker itself."""
    return max(1, int(desired_workers.processes(options) or (seen or {}).get("processes") or 1))


def _presence(
    queues: Sequence[str], seen: Mapping[str, Any] | None, active: bool, reached: bool
) -> Presence:
    if active or (seen is not None and set(queues) & set(seen.get("queues", ()))):
        return "serving"
    return "inactive" if reached else "missing"


def needed_tasks(
    queues: Sequence[str],
    schedule: Mapping[str, Mapping[str, Any]],
    routes: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return the tasks that a consumer of these queues must know: scheduled tasks, and tasks routed to them by name."""
    tasks = {
        entry["task"]
        for entry in routing.scheduled(schedule, routes).values()
        if entry["queue"] in queues
    }
    tasks |= {
        name
        for name, route in routes.items()
        if not is_pattern(name) and str(route.get("queue")) in queues
    }
    return sorted(tasks)
