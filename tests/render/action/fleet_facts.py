"""Stands before the action plugin `fleet_facts`: a host as it is once everything is installed."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.action import ActionBase

FACTS = {
    "reachable": True,
    "reason": "",
    "hostname": "somehost",
    "architecture": "x86_64",
    "uid": 0,
    "distribution": "debian",
    "distribution_version": "12",
    "distribution_codename": "bookworm",
    "distribution_name": "Debian GNU/Linux 12 (bookworm)",
    "systemd_is_init": True,
    "python_version": "3.11.2",
    "processors": 2,
    "memory_bytes": 4 * 2**30,
    "free_bytes": {"/opt": 2**34, "/var": 2**34},
    "packages": ["nginx-light", "openssl", "python3-venv", "redis-server"],
    "clock_offset": 0.0,
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible is not typed
    """Asks nobody."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        systemd = int(os.environ["RENDERED_FOR_SYSTEMD"])
        return {"changed": False, "ansible_facts": {"fleet": {**FACTS, "systemd_version": systemd}}}
