"""Action plugin `fleet_firewall`: rolls a new table back unless every host still reaches Redis through it."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import firewall
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, remote

# Seconds until a host rolls the table back by itself.
VALID = 60
# Seconds within which a port has to answer.
PATIENCE = 5


class ActionModule(ActionBase):
    """Runs one small script on the host: `scripts/firewall.py`."""

    _supports_check_mode = False
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Arm the rollback, connect, or end the trial: cancel the rollback, or begin it and refuse the table."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables, args = task_vars or {}, self._task.args
        if args["do"] == "connect":
            targets = [[str(host), int(port)] for host, port in args["targets"]]
            result.update(
                changed=False, **self._ask(do="connect", targets=targets, timeout=PATIENCE)
            )
            return result
        refusal = self._refusal(variables) if args["do"] == "end" else ""
        do = "arm" if args["do"] == "arm" else "back" if refusal else "keep"
        try:
            with lease.held(variables, check=self._task.check_mode):
                error = self._ask(do=do, app=args["app"], file=args["file"], seconds=VALID)["error"]
        except lease.LostError as lost:
            raise AnsibleActionFail(str(lost)) from None
        if refusal:
            raise AnsibleActionFail(refusal)
        if error:
            raise AnsibleActionFail(
                f"The rollback of the firewall's table can't be {'armed' if do == 'arm' else 'cancelled'}: {error}\n"
                "Mend that on this host and run the same command again."
            )
        result["changed"] = do == "arm"
        if do == "arm":
            result["armed"] = True
        return result

    def _ask(self, **asked: Any) -> dict[str, Any]:
        command, stdin = remote.call("firewall", asked)
        done = self._low_level_execute_command(command, in_data=stdin)
        try:
            return dict(remote.answer(done))
        except remote.RemoteError as error:
            raise AnsibleActionFail(
                f"the firewall's table can't be tried: {error}. Mend that there and run the same command again."
            ) from None

    def _refusal(self, variables: dict[str, Any]) -> str:
        hostvars = variables["hostvars"]
        silent = {
            host: (hostvars[host].get("__firewall_connected") or {}).get("silent") or []
            for host in variables["ansible_play_hosts_all"]
        }
        blocked = {host: found for host, found in silent.items() if found}
        allowed = {host: firewall.addresses(hostvars[host], host) for host in blocked}
        return firewall.refusal(blocked, allowed)
