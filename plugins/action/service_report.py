"""Action plugin `service_report`: prints a table of what serves, or fails and names everything that does not.

It runs on the control node, once for all hosts, on their answers, and calls no host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import report
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Reads what earlier tasks have registered; contacts no host."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Print the table.

        Raises:
            AnsibleActionFail: Something does not serve; the message has host, unit, journal and next command of each.
        """
        hostvars = variables["hostvars"]
        hosts = [str(host) for host in args["hosts"]]
        seen = {
            host: report.HostFindings(
                serving=_registered(hostvars[host], "__verify_serving"),
                journals=_registered(hostvars[host], "__verify_journals").get("journals", {}),
            )
            for host in hosts
        }
        probe = _registered(hostvars[args["prober"]], "__verify_probe") if args["prober"] else {}
        if not self._task.check_mode:
            errors = report.errors(
                str(args["app"]), seen, probe, args.get("schedule"), str(args.get("policy", "add"))
            )
            if errors:
                raise AnsibleActionFail("\n\n".join(["the fleet does not serve:", *errors]))
        if args.get("table"):
            policy = str(args.get("policy", "add"))
            notes = report.remarks(str(args["app"]), seen, args.get("schedule") or {}, policy)
            notes += [str(note) for note in args.get("notes", [])]
            text = report.table(seen, probe, notes)
            if args.get("path"):
                Path(str(args["path"])).write_text(text + "\n")
            else:
                Display().display("\n" + text)
        return {}


def _registered(variables: Any, name: str) -> dict[str, Any]:
    found = variables.get(name) or {}
    return dict(found)
