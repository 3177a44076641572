"""Action plugin `wait_for_services`: waits for a limited time until the services of a host serve, and returns errors.

It only fails itself if it is told to. Otherwise `service_report` can list the errors of all hosts at once.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts, report
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Runs a small script on the host; see `run/host_scripts.py`."""

    unanswered = "the services can't be checked"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return states of the units, and `errors` by name.

        Raises:
            AnsibleActionFail: A service that is required does not serve.
        """
        required = bool(args.get("required")) and not self._task.check_mode
        command, stdin = host_scripts.serving(
            units=args.get("units", []),
            addresses=args.get("addresses", []),
            journals=args.get("journals", []),
            schedule=str(args.get("schedule", "")),
            release=str(args.get("release", "")),
            # In a dry run on a new host there is nothing to wait for.
            timeout=0 if self._task.check_mode else float(args["timeout"]),
            restarts=systemd.RESTARTS_TOLERATED if required else None,
        )
        answer = self._low_level_execute_command(command, in_data=stdin)
        found = dict(host_scripts.answer(answer, self.secrets))
        if required and found["errors"]:
            host = str(variables["inventory_hostname"])
            raise AnsibleActionFail(
                "\n".join(report.error(host, *item) for item in found["errors"].items())
            )
        return found
