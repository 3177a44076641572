"""Action plugin `run_notice`: tells a user's program that a run begins. The callback `notify` tells how it has ended.

It runs on the control node, once for all hosts, and calls no host.
"""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import notice
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

CALLBACK = "celery_fleet.core.notify"


class ActionModule(FleetAction):
    """Runs the program; contacts no host."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the program and what it was told, for the callback; a program that fails does not end the run.

        Raises:
            UserError: Nothing would tell of the run's end.
        """
        command = [str(word) for word in args["command"]]
        if CALLBACK not in constants.config.get_config_value("CALLBACKS_ENABLED"):
            raise UserError(
                f"fleet_notify needs `callbacks_enabled = {CALLBACK}` in the section [defaults] of your ansible.cfg;"
                " without it nothing would tell how the run has ended. Nothing was changed."
            )
        start = notice.begun(
            str(args["app"]), str(args["release"] or ""), args["plan"], str(args["playbook"])
        )
        trouble = notice.send(command, start)
        return {
            "command": command,
            "start": start,
            **({"warnings": [f"fleet_notify: {trouble}"]} if trouble else {}),
        }
