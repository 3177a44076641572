"""Action plugin `fleet_schedule`: compares the schedule in the database with what is declared, or writes it there.

`do: plan` only reads; `do: sync` writes, and is skipped in check mode. See `run/schedule.py`.
"""

from __future__ import annotations

import json
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, payload, schedule


class ActionModule(ActionBase):
    """One question to beat's host."""

    _supports_check_mode = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Items and notes of the plan, or what was written.

        Raises:
            AnsibleActionFail: What is declared has to be mended, or could not be written; with what to do next.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(changed=False)
        variables = task_vars or {}
        host = str(variables["inventory_hostname"])
        known = payload.secrets(self._templar)
        try:
            if self._task.args["do"] == "plan":
                result.update(schedule.foretold(host, self._ask(), known))
            elif not self._task.check_mode:
                with lease.held(variables, check=False):
                    done = schedule.written(host, self._ask(), known)
                for line in done["lines"]:
                    Display().display(f"{host}: {line}")
                result.update(changed=done["changed"])
        except (schedule.ScheduleError, lease.LostError) as error:
            raise AnsibleActionFail(str(error)) from None
        return result

    def _ask(self) -> dict[str, Any]:
        args = self._task.args
        command = schedule.command(
            str(args["do"]),
            str(args["app"]),
            str(args["root"]),
            str(args["runtime"]),
            str(args["release"]),
            float(args["timeout"]),
        )
        done: dict[str, Any] = self._low_level_execute_command(
            command, in_data=json.dumps(args["settings"]).encode()
        )
        return done
