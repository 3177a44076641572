"""Replaces the action plugin `run_lease`: no other run holds the lease."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from tests.unit.removal import scripted


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible is not typed
    """Takes the lease."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        if not self._task.check_mode:
            scripted.told("lease", str(self._task.args["state"]), str(self._task.delegate_to))
        return {"changed": False, "directory": ""}
