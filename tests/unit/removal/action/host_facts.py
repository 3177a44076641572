"""Replaces the action plugin `host_facts`: returns hosts as the test describes them."""

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
    """Returns facts without contacting a host."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        facts = scripted.answers()["facts"][task_vars["inventory_hostname"]]
        return {"changed": False, "ansible_facts": {"fleet": facts}}
