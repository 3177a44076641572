"""Action plugin `pause_workers`: makes all workers of the fleet pause or resume, by way of one running worker.

If workers can't be paused, that is only a warning: they survive the restart of Redis that follows.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

# Seconds after a run's last request until workers resume by themselves: a Redis takes a while to load a large file.
VALID = 180
# Seconds within which workers reconnect to a restarted Redis.
FIND_BACK = 60


class ActionModule(FleetAction):
    """Runs `celery_fleet.ops.probe` on the host of a running worker."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of each worker in `paused`."""
        pausing = args["state"] == "paused"
        # The running workers are known, so don't wait for others.
        nodes = [f"{worker['worker']}@{worker['host']}" for worker in args["running"]]
        request: dict[str, Any] = {"settings": args["settings"]}
        if pausing:
            request["pause"] = {"seconds": VALID, "wait": float(args["wait"]), "nodes": nodes}
        else:
            request["resume"] = {"wait": FIND_BACK, "nodes": nodes} if nodes else True
        answer = self._ask(request)
        for trouble in answer.get("errors", []):
            what = "paused" if pausing else f"told to resume; they do so within {VALID} s"
            self._display.warning(f"workers can't be {what}: {trouble}")
        return {"changed": pausing, "paused": answer.get("paused", {})}

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        args = self._task.args
        command = host_scripts.deployed_probe(
            str(args["configuration"]), str(args["root"]), str(args["user"])
        )
        try:
            return self.ask_probe(command, request)
        except (host_scripts.RemoteError, AnsibleConnectionFailure) as error:
            return {"errors": [str(error)]}
