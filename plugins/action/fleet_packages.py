"""Action plugin `fleet_packages`: notes on a host which Debian packages a run brings there; see the script `packages`.

`do: begin` comes before they are installed, `end` after it. A removal of the fleet goes by the note.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.module_utils.removal import packages
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import remote


class ActionModule(ActionBase):
    """Asks the script `packages`."""

    _supports_check_mode = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Which packages were noted.

        Raises:
            AnsibleActionFail: The note can't be written.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(changed=False, new={})
        if self._task.check_mode:
            return result
        args = self._task.args
        request = {"path": packages.NOTE, "do": args["do"], "asked": list(args.get("asked", []))}
        command, stdin = remote.call("packages", request)
        answer = self._low_level_execute_command(command, in_data=stdin)
        try:
            result["new"] = dict(remote.answer(answer)["new"])
        except remote.RemoteError as error:
            raise AnsibleActionFail(
                f"which packages this run brings can't be noted in {packages.NOTE}: {error}. "
                "Mend that there and run the same command again."
            ) from None
        return result
