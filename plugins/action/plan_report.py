"""Action plugin `plan_report`: prints the plan of the whole fleet once, and writes it as JSON on request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    workers as desired_workers,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart import (
    canary,
    canary_choice,
    census,
    order,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.forecast import describe
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    going_back,
    old_users,
    plan,
    release_record,
    second_beat,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import tag_notes


class ActionModule(FleetAction):
    """Reads what `host_plan` has registered for each host; contacts no host."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the plan as data, and whether there is anything to do.

        Raises:
            AnsibleActionFail: The plan must not be followed.
            UserError: The JSON can't be written, or a variable of the roll is out of range.
        """
        hostvars = variables["hostvars"]
        hosts = [str(host) for host in args["hosts"]]
        items = [
            plan.PlanItem(**{**item, "why": tuple(item["why"])})
            for host in hosts
            for found in ("__fleet_plan", "__fleet_schedule")
            for item in (hostvars[host].get(found) or {}).get("items", [])
        ]
        items = plan.in_order(items, hosts)
        missing = {str(host): str(reason) for host, reason in args["missing"].items()}
        workers = self._workers(hostvars, items, hosts, missing)
        whole = plan.Plan(plan.with_forced(items, workers, hosts), hosts, missing)
        for host in hosts:
            whole.notes += (hostvars[host].get("__fleet_schedule") or {}).get("notes", [])
        plans = {host: hostvars[host].get("__fleet_plan") or {} for host in hosts}
        # Those of a release are the same on each host.
        whole.notes += dict.fromkeys(
            remark for found in plans.values() for remark in found.get("remarks", [])
        )
        whole.notes += tag_notes(variables["ansible_run_tags"], variables["ansible_skip_tags"])
        states = {host: found.get("states") or {} for host, found in plans.items()}
        whole.notes += plan.pause_notes(states)
        group = [str(host) for host in args["workers"]]
        nodes = desired_workers.nodes(hostvars, group, args["instances"])
        whole.notes += plan.scale_notes(states, nodes)
        whole.notes += release_record.note((args.get("releases") or {}).get("hold"))
        whole.notes += _waiting(plans.values())
        whole.notes += plan.drain_notes(items)
        moves = boolean(args.get("redis_moves") or False)
        whole.notes += plan.redis_notes(items, float(args["drain"]), moves=moves)
        whole.notes += self._forecast(workers, variables.get("ansible_forks"))
        back = str(args.get("back") or "")
        whole.notes += going_back.notes(whole.items) if back else []
        if args.get("path"):
            plan.save(str(args["path"]), whole.as_dict())
        Display().display("\n" + whole.text() + "\n")
        groups = self.groups(variables)
        left_out = [
            str(host)
            for host in groups["fleet"]
            if str(host) not in hosts and str(host) not in missing
        ]
        tags = variables["ansible_run_tags"], variables["ansible_skip_tags"]
        refusal = (
            second_beat.refusal(items, left_out, *tags, missing)
            or old_users.refusal(items, missing, groups["redis"])
            or (going_back.refusal(whole.items, back) if back else "")
        )
        if refusal:
            raise AnsibleActionFail(refusal)
        self._require_approved(str(args.get("approved") or ""), whole.as_dict())
        due = {part for found in plans.values() for part in found.get("due", [])}
        return {
            "changes": bool(whole.items),
            "due": sorted(due),
            "plan": whole.as_dict(),
            "redis_pauses": plan.redis_pauses(items, moves=moves),
        }

    def _forecast(self, workers: Sequence[order.FleetWorker], forks: int | None) -> list[str]:
        """Return what is to be said about the restarts of workers, in a deploy with the canary."""
        asked = self._task.args.get("canary") or {}
        limits = canary.limits(asked)
        found = canary_choice.candidates(workers, str(asked["worker"]), forks) if limits else []
        nodes = [worker.node for worker in found]
        policy = order.Policy(
            int(self._task.args["min_capacity"]),
            int(self._task.args["batch"]),
            nodes[0] if nodes else None,
        )
        return describe(workers, policy, limits.seconds if limits else 0.0, nodes)

    def _require_approved(self, path: str, fresh: Mapping[str, Any]) -> None:
        """Refuse a plan that goes beyond the approved one."""
        if not path:
            return
        try:
            beyond = plan.beyond(json.loads(Path(path).read_text()), fresh)
        except OSError as error:
            beyond, why = [], f"{path} can't be read: {error.strerror}"
        except ValueError as error:
            beyond, why = [], f"{path}: {error}"
        else:
            why = "this is not the plan that was approved" if beyond else ""
        if why:
            remedy = "Nothing was changed. Have the plan above approved (fleet_plan_json writes it), and run again."
            raise AnsibleActionFail("\n".join([f"fleet_plan_approved: {why}", *beyond, remedy]))

    def _workers(
        self,
        hostvars: Any,
        items: Sequence[plan.PlanItem],
        hosts: Sequence[str],
        missing: Mapping[str, str],
    ) -> list[order.FleetWorker]:
        """Return all workers with the actions that they need; those of hosts outside of the run count as active."""
        args = self._task.args
        group, app = [str(host) for host in args["workers"]], str(args["app"])
        active = {host: set(census.active_units(hostvars[host])) for host in hosts}
        for node in desired_workers.nodes(hostvars, group, args["instances"]).values():
            if node["host"] not in hosts and node["host"] not in missing:
                active.setdefault(node["host"], set()).add(str(node["unit"]))
        findings = census.Findings(
            present=hosts,
            items=[item.as_dict() for item in items if item.part == "celery_worker"],
            census={},
            # Second instances that were left behind are among the plan's items.
            left={},
            active=active,
        )
        return census.workers(
            app,
            hostvars,
            group,
            args["instances"],
            findings,
            force=boolean(args["restart_all"]),
            only=desired_workers.restart_names(args["only"]),
        )


def _waiting(plans: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return which tasks wait in queues that no worker will have; replicas of a broker count the same ones."""
    found: dict[str, int] = {}
    for one in plans:
        found |= one.get("waiting") or {}
    return [
        f"{count(number, 'task')} in queue {queue}, which the inventory does not name: no worker will run those "
        "that are still there at the end of the run"
        for queue, number in found.items()
    ]
