"""Action plugin `database_schedule`: compares the schedule in the database with what is declared, or writes it there.

`do: plan` only reads; `do: sync` writes, and is skipped in check mode. See `run/schedule.py`.
"""

from __future__ import annotations

import json
from typing import Any

from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, schedule
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Runs one command on beat's host."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return items and notes of the plan, or what was written."""
        host = str(variables["inventory_hostname"])
        if args["do"] == "plan":
            return schedule.planned(host, self._ask(), self.secrets)
        if self._task.check_mode:
            return {}
        with lease.held(variables, check=False):
            done = schedule.written(host, self._ask(), self.secrets)
        for line in done["lines"]:
            Display().display(f"{host}: {line}")
        return {"changed": done["changed"]}

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
