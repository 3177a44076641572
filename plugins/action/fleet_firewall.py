"""Action plugin `fleet_firewall`: tries a table on a host, asks from hosts who gets through, takes it back or keeps it.

`do: refuse` calls no host: it ends the run with what the others have found.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.module_utils import names
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import firewall
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, remote

# Seconds after which a host takes a table back by itself, should the run end before its word.
VALID = 120
# Seconds within which a host has to get through.
PATIENCE = 5
_DONE = {"try": "loaded", "back": "taken back", "keep": "kept"}


class ActionModule(ActionBase):
    """Runs one small script on the host; see `scripts/firewall.py` beside `run/remote.py`."""

    _supports_check_mode = False
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """`blocked` of `connect`; the others change the host's rules, until the host starts anew at the longest."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        args = self._task.args
        if args["do"] == "refuse":
            raise AnsibleActionFail(self._refusal(variables))
        if args["do"] == "connect":
            asked = {"targets": [[str(h), int(p)] for h, p in args["targets"]], "timeout": PATIENCE}
            result.update(changed=False, **self._ask(do="connect", **asked))
            return result
        app = str(args["app"])
        asked = {
            "unit": f"{app}-firewall-back",
            "table": names.firewall_table(app),
            "file": args["file"],
        }
        try:
            with lease.held(variables, check=self._task.check_mode):
                answer = self._ask(
                    do=args["do"], text=str(args.get("text", "")), seconds=VALID, **asked
                )
        except lease.LostError as lost:
            raise AnsibleActionFail(str(lost)) from None
        if answer["error"]:
            raise AnsibleActionFail(
                f"The firewall's table can't be {_DONE[args['do']]}: {answer['error']}\n"
                "Does the host's kernel have nftables? `nft list tables` on it says so; `firewall_enabled: false` goes "
                "without. Then run again."
            )
        result.update(changed=args["do"] == "try", tried=args["do"] == "try")
        return result

    def _ask(self, **asked: Any) -> dict[str, Any]:
        command, stdin = remote.call("firewall", asked)
        done = self._low_level_execute_command(command, in_data=stdin)
        try:
            return dict(remote.answer(done))
        except remote.RemoteError as error:
            raise AnsibleActionFail(
                f"the firewall can't be tried: {error}. Mend that there and run the same command again."
            ) from None

    def _refusal(self, variables: dict[str, Any]) -> str:
        hostvars, hosts = variables["hostvars"], variables["ansible_play_hosts_all"]
        answers = {
            name: {h: hostvars[h].get(name) or {} for h in hosts}
            for name in ("__firewall_connected", "__firewall_again", "__firewall_tried")
        }
        tries = {h: a for h, a in answers["__firewall_connected"].items() if a.get("blocked")}
        tables = [h for h, answer in answers["__firewall_tried"].items() if answer.get("tried")]
        allowed = {host: firewall.addresses(hostvars[host], host) for host in tries}
        return firewall.refusal(tries, answers["__firewall_again"], allowed, tables)
