"""Action plugin `fleet_packages`: notes on a host which Debian packages a run brings there; see the script `packages`.

`do: begin` comes before they are installed, `end` after it. A removal of the fleet goes by the note.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.removal import packages
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Asks the script `packages`."""

    unanswered = f"which packages this run brings can't be noted in {packages.NOTE}"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return which packages were noted."""
        if self._task.check_mode:
            return {"new": {}}
        request = {"path": packages.NOTE, "do": args["do"], "asked": list(args.get("asked", []))}
        return {"new": dict(self.ask("packages", request)["new"])}
