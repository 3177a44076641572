"""Replaces the action plugin `host_facts`: returns hosts as the test describes them."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from tests.unit.removal import scripted


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible is not typed
    """Returns facts without contacting a host."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        facts = scripted.answers()["facts"][task_vars["inventory_hostname"]]
        return {"changed": False, "ansible_facts": {"fleet": facts}}
