"""Action plugin `fleet_packages`: notes on a host which Debian packages a run brings there; see the script `packages`.

`do: begin` comes before they are installed, `end` after it. A removal of the fleet goes by the note.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

PLUGINS = Path(__file__).resolve().parents[1]
# ansible.cfg's `module_utils` is where modules are packed from; a plugin of the control side does not see it.
if str(PLUGINS / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))

from ansible.module_utils.fleet_control import installed, remote  # noqa: E402  # needs the path above


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
        request = {"path": installed.NOTE, "do": args["do"], "asked": list(args.get("asked", []))}
        command, stdin = remote.call("packages", request)
        answer = self._low_level_execute_command(command, in_data=stdin)
        try:
            result["new"] = dict(remote.answer(answer)["new"])
        except remote.RemoteError as error:
            raise AnsibleActionFail(
                f"which packages this run brings can't be noted in {installed.NOTE}: {error}. "
                "Mend that there and run the same command again."
            ) from None
        return result
