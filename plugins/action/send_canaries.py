"""Action plugin `send_canaries`: sends canaries to workers from one host, in the release's own Python.

The operator's settings are sent by standard input and never stored on a host.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils import routing
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts, report
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Runs `python -m celery_fleet.ops.probe` as the application's user."""

    unanswered = "the canaries can't be sent"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the probe's answer, and in `bad` host, unit and errors of each worker that is not well."""
        if self._task.check_mode:
            return {"bad": [], "skipped": True}
        every = dict(args["nodes"])
        hosts = set(args["hosts"])
        nodes = {name: node for name, node in every.items() if node["host"] in hosts}
        # With only some of the workers (--limit) it is not known whether a task is registered anywhere.
        schedule = self._scheduled() if len(nodes) == len(every) else {}
        request = {
            "settings": args["settings"],
            "nodes": {name: {"queues": node["queues"]} for name, node in nodes.items()},
            "schedule": schedule,
            # Roles also accept it as text.
            "timeout": float(args["timeout"]),
        }
        here = variables["inventory_hostname"]
        worker = next(node["worker"] for node in nodes.values() if node["host"] == here)
        python = f"{args['pins']}/worker-{worker}/venv/bin/python"
        command = host_scripts.probe(python, str(args["runtime"]), str(args["user"]))
        answer = self.ask_probe(command, request)
        bad = [
            {**nodes[name], "node": name, "errors": node["errors"] or [str(node["state"])]}
            for name, node in answer["nodes"].items()
            if not node["ok"]
        ]
        result = {**answer, "bad": bad}
        if args.get("strict") and bad:
            found = report.errors(
                "", {here: report.HostFindings({}, self._journals(bad))}, {"bad": bad}
            )
            result.update(failed=True, msg="\n\n".join(found))
        return result

    def _scheduled(self) -> dict[str, dict[str, str]]:
        """Return one entry for each task and queue that the inventory, or the code that beat has loaded, schedules."""
        args = self._task.args
        loaded = {
            str(entry["name"]): {"task": str(entry["task"]), "queue": str(entry["queue"])}
            for entry in args.get("loaded") or []
            # If an entry only names an exchange, its consumer is not known.
            # Users' own entries in a database are not checked; declared ones are added below.
            if entry.get("queue") and entry.get("source") not in ("database", "redbeat")
        }
        declared = routing.scheduled(args["schedule"], args["routes"])
        found = {**loaded, **{name: one for name, one in declared.items() if one["queue"]}}
        # Thousands of entries may only differ in their arguments.
        names: dict[tuple[str, str], str] = {}
        for name, one in found.items():
            # No worker of the fleet consumes an external queue.
            if one["queue"] not in args.get("external", []):
                names.setdefault((one["task"], one["queue"]), name)
        return {name: found[name] for name in names.values()}

    def _journals(self, bad: list[dict[str, Any]]) -> dict[str, str]:
        """Return the last lines of the units' journals. A single worker is probed from its own host, which has them."""
        command, stdin = host_scripts.serving(journals=[node["unit"] for node in bad])
        answer = self._low_level_execute_command(command, in_data=stdin)
        return dict(host_scripts.answer(answer, self.secrets)["journals"])
