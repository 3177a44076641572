"""Action plugin `fleet_pause`: has all workers of the fleet pause, or go on, by one of them that runs.

A pause that can't be had is a warning: what comes after it is a restart of Redis, which workers survive, and one that
does not answer has nobody to pause.
"""

from __future__ import annotations

import json
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

# Seconds after which workers go on by themselves, counted from the last word of a run: a Redis that loads a large
# file takes its time.
VALID = 180
# Seconds in which workers have found back to a Redis that was restarted.
FIND_BACK = 60
# The probe's exit status on a host without a worker.
NOBODY = 99


class ActionModule(FleetAction):
    """Runs `celery_fleet.ops.probe` on the host of a running worker."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return in `paused` what each worker has answered."""
        pausing = args["state"] == "paused"
        # Where it is known who runs, nobody has to be waited for who is not there.
        nodes = [f"{worker['worker']}@{worker['host']}" for worker in args["running"]]
        request: dict[str, Any] = {"settings": args["settings"]}
        if pausing:
            request["pause"] = {"seconds": VALID, "wait": float(args["wait"]), "nodes": nodes}
        else:
            request["resume"] = {"wait": FIND_BACK, "nodes": nodes} if nodes else True
        answer = self._ask(request)
        for trouble in answer.get("errors", []):
            what = "paused" if pausing else f"told to go on; they do so within {VALID} s"
            self._display.warning(f"workers can't be {what}: {trouble}")
        return {"changed": pausing, "paused": answer.get("paused", {})}

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        args = self._task.args
        try:
            done = self._low_level_execute_command(
                host_scripts.with_identity(
                    host_scripts.deployed_probe(
                        str(args["configuration"]), str(args["root"]), str(args["user"])
                    ),
                    args["settings"],
                ),
                in_data=json.dumps(request, default=str).encode(),
            )
            if done["rc"] == NOBODY:
                return {}
            return host_scripts.finding(done, self.secrets)
        except (host_scripts.RemoteError, AnsibleConnectionFailure) as error:
            return {"errors": [str(error)]}
