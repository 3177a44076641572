"""Replaces the action plugin `run_lease`: no other run holds the lease."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

SPEC = importlib.util.spec_from_file_location("scripted", Path(__file__).with_name("scripted.py"))
assert SPEC is not None
assert SPEC.loader is not None
scripted = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(scripted)


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible is not typed
    """Takes the lease."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        if not self._task.check_mode:
            scripted.told("lease", str(self._task.args["state"]), str(self._task.delegate_to))
        return {"changed": False, "directory": ""}
