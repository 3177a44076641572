"""Action plugin `firewall_rollback`: rolls a new table back unless every host still reaches Redis through it."""

from __future__ import annotations

import math
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import firewall
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

# Seconds until a host rolls the table back by itself, for each time that Ansible's forks go through some of the hosts.
VALID = 60
_DONE = {"arm": "armed", "back": "begun", "keep": "cancelled"}
# Seconds within which a port must answer.
PATIENCE = 5


class ActionModule(FleetAction):
    """Runs the script `scripts/firewall.py` on the host."""

    unanswered = "the firewall's table can't be tried"

    _supports_check_mode = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Arm the rollback, connect, or end the trial: cancel the rollback, or begin it and fail."""
        if args["do"] == "connect":
            targets = [[str(host), int(port)] for host, port in args["targets"]]
            return self.ask("firewall", {"do": "connect", "targets": targets, "timeout": PATIENCE})
        refusal = self._refusal(variables) if args["do"] == "end" else ""
        do = "arm" if args["do"] == "arm" else "back" if refusal else "keep"
        hosts, forks = len(variables["ansible_play_hosts_all"]), int(variables["ansible_forks"])
        seconds = VALID * math.ceil(hosts / forks)
        request = {"do": do, "app": args["app"], "file": args["file"], "seconds": seconds}
        with lease.held(variables, check=self._task.check_mode):
            error = self.ask("firewall", request)["error"]
        failed = error and (
            f"The rollback of the firewall's table can't be {_DONE[do]}: {error}\n"
            "Fix that on this host and run the same command again."
        )
        if refusal or failed:
            raise UserError("\n".join(filter(None, [refusal, failed])))
        return {"changed": True, "armed": True} if do == "arm" else {}

    def _refusal(self, variables: dict[str, Any]) -> str:
        hostvars = variables["hostvars"]
        silent = {
            host: (hostvars[host].get("__firewall_connected") or {}).get("silent") or []
            for host in variables["ansible_play_hosts_all"]
        }
        blocked = {host: found for host, found in silent.items() if found}
        allowed = {host: firewall.addresses(hostvars[host], host) for host in blocked}
        return firewall.refusal(blocked, allowed)
