"""Replaces action plugins that contact a host: records each request, and reports that it is done."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.groups import (
    fleet_groups,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import backup_files
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import parts_of
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.plan import PlanItem

from tests.collection import plain
from tests.render.action.host_facts import DEBIAN, FACTS

Variables = dict[str, Any]

#: A worker that all hosts of workers have.
WORKER = "flexiprice-worker@discounts.service"


def facts(args: Variables, variables: Variables) -> Variables:
    """Return a host's facts.

    With `HELD` in the environment, the fleet has gone back to the earlier release; `DOWN` names a host that is down.
    """
    if variables["inventory_hostname"] == os.environ.get("DOWN"):
        return {"changed": False, "ansible_facts": {"fleet": {"reachable": False, "reason": "x"}}}
    found = {**FACTS, **DEBIAN[252], "systemd_version": 252}
    if "HELD" in os.environ:
        found["record"] = {"current": EARLIER, "hold": {"release": EARLIER, "tasks": KNOWN}}
    return {"changed": False, "ansible_facts": {"fleet": found}}


def planned(args: Variables, variables: Variables) -> Variables:
    """Return a plan in which everything is due, or only the parts that the environment names. A way back is another."""
    host = str(variables["inventory_hostname"])
    groups = fleet_groups(variables["groups"], variables.get("fleet_groups"))
    member = [group for group, hosts in groups.items() if host in hosts]
    parts = parts_of(member, variables["ansible_run_tags"], variables["ansible_skip_tags"])
    only = os.environ.get("DUE", "").split()
    due = [part.name for part in parts if not only or part.name in only]
    items = [PlanItem(host, name, "", "write", ("something",)).as_dict() for name in due]
    if not only and {"celery_producer", "flower"} & set(due):
        items.append(PlanItem(host, due[-1], "nginx.service", "reload", ("site",)).as_dict())
    states = {}
    if not only and "celery_worker" in due:
        kept = (variables.get("__celery_release_choice") or {}).get("choice", {}).get("kept")
        why = (f"release → {kept}",) if kept else ("release",)
        items.append(PlanItem(host, "celery_worker", WORKER, "restart", why).as_dict())
        states[WORKER] = {"active": "active"}
    waiting = json.loads(os.environ.get("WAITING", "{}")) if "redis" in due else {}
    return {"changed": False, "items": items, "due": due, "states": states, "waiting": waiting}


def reconciled(args: Variables, variables: Variables) -> Variables:
    """Change something; tasks wait in the queues that the environment names when Redis is finished."""
    waiting = json.loads(os.environ.get("WAITING", "{}")) if args.get("finish") else {}
    return {"changed": True, "waiting": waiting}


def waited(args: Variables, variables: Variables) -> Variables:
    """Tell that all is well, except on the host that the environment names, if that is required."""
    silent = variables["inventory_hostname"] == os.environ.get("SILENT")
    if args.get("required") and silent:
        return {"failed": True, "msg": "it does not answer"}
    return {"changed": False, "units": {}, "errors": {}}


def rolled(args: Variables, variables: Variables) -> Variables:
    """Restart workers, except a canary that the environment refuses."""
    if args["phase"] == "restart" and args["turns"]["canary"] and "REFUSED" in os.environ:
        return {"failed": True, "msg": os.environ["REFUSED"]}
    if args["phase"] != "open":
        return {"changed": args["phase"] != "report"}
    hosts = dict.fromkeys(("start", "restart", "finish"), args["hosts"])
    return {"changed": False, "turns": True, "deferred": [], "hosts": hosts, "whole": True}


def chosen(args: Variables, variables: Variables) -> Variables:
    """Return the choice of the source or, to go back, of the earlier release; a record with one entry."""
    earlier = {
        "kept": EARLIER if args["do"] in ("back", "refuse") else "",
        "source": args.get("source"),
    }
    tasks = KNOWN if earlier["kept"] else []
    choice = {**earlier, "current": EARLIER, "holds": False, "what": "x", "why": "", "tasks": tasks}
    record = {"history": [{"release": args.get("release"), "result": args.get("result")}]}
    return {
        "changed": False,
        "record": record,
        "choice": choice,
        "why": args.get("why"),
        "there": {},
    }


#: The release that serves before a deploy, and the only task that it has.
EARLIER, KNOWN = "0" * 12, ["app.tasks.update_price_history"]


def restored(args: Variables, variables: Variables) -> Variables:
    """Read the backup as the delivered plugin does, and tell of hosts on which everything goes well."""
    if args["do"] == "read":
        files = backup_files.read(Path(args["backup"]), args["app"])
        return {"changed": False, "files": files}
    if args["do"] == os.environ.get("REFUSES"):
        return {"failed": True, "msg": "it is refused"}
    names = [one["name"] for one in args["instances"]]
    state = "due" if args["do"] == "prepare" else "done"
    found = {name: {"state": state, "keys": 7, "kept": f"/{name}.before"} for name in names}
    return {"changed": args["do"] not in ("room", "prepare"), "instances": found}


def built(args: Variables, variables: Variables) -> Variables:
    """Build a release or, unless the environment says that it fails, Flower's virtualenv.

    The host that the environment names gets a newer package.
    """
    if str(args.get("user")).endswith("-flower") and "UNBUILT" in os.environ:
        return {"failed": True, "msg": "no index"}
    newer = variables["inventory_hostname"] == os.environ.get("NEWER")
    packages = [{"name": "shop", "version": "1.1" if newer else "1.0"}]
    return {"changed": True, "packages": packages}


def changed(args: Variables, variables: Variables) -> Variables:
    """Tell that something changed."""
    return {"changed": True}


#: The plugins that this file replaces. It is linked under each of these names.
ANSWERS: dict[str, Callable[[Variables, Variables], Variables]] = {
    "host_facts": facts,
    "host_plan": planned,
    "reconcile": reconciled,
    "rolling_restart": rolled,
    "run_lease": lambda args, variables: {"changed": False, "directory": "/nowhere"},
    "firewall_rollback": lambda args, variables: {"changed": True, "armed": True},
    "send_canaries": lambda args, variables: {"changed": False, "bad": []},
    "wait_for_services": waited,
    "redis_restore": restored,
    "release": built,
    "release_history": chosen,
    "release_commands": lambda args, variables: {
        "changed": False,
        "marks": {},
        "mark": {"state": "done"},
    },
    **dict.fromkeys(("database_schedule", "pause_workers", "service_report"), changed),
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible is not typed
    """Records which task was run on which host, with which arguments."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> Variables:
        variables = task_vars or {}
        action = str(self._task.action).removeprefix("celery_fleet.core.")
        args = plain(dict(self._task.args))
        part = variables.get("systemd_unit_part") if action == "reconcile" else None
        call = {
            "action": action,
            "task": self._task.get_name(),
            "host": str(self._task.delegate_to or variables["inventory_hostname"]),
            "part": part and str(self._templar.template(part)),
            "args": args,
        }
        # Use a file for each call, named in order, because calls are made in separate processes.
        with tempfile.NamedTemporaryFile(
            "w", dir=os.environ["CALLS"], suffix=".json", delete=False
        ) as stream:
            json.dump(call, stream, default=str)
        return ANSWERS[action](args, variables)
