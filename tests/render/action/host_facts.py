"""Replaces the action plugin `host_facts`: describes a host on which everything is installed."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.action import ActionBase

FACTS: dict[str, Any] = {
    "reachable": True,
    "reason": "",
    "hostname": "somehost",
    "architecture": "x86_64",
    "uid": 0,
    "distribution": "debian",
    "systemd_is_init": True,
    "processors": 2,
    "memory_bytes": 4 * 2**30,
    "free_bytes": {"/opt": 2**34, "/var": 2**34},
    "packages": ["nginx-light", "openssl", "python3-venv", "redis-server"],
    "clock_offset": 0.0,
}
# Debian's release by the version of systemd.
DEBIAN = {
    252: {
        "distribution_version": "12",
        "distribution_name": "Debian GNU/Linux 12 (bookworm)",
        "python_version": "3.11.2",
    },
    257: {
        "distribution_version": "13",
        "distribution_name": "Debian GNU/Linux 13 (trixie)",
        "python_version": "3.13.5",
    },
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible is not typed
    """Returns facts without contacting a host."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        systemd = int(os.environ["RENDERED_FOR_SYSTEMD"])
        facts = {**FACTS, **DEBIAN[systemd], "systemd_version": systemd}
        lacking = task_vars.get("rendered_without") or ()
        facts["packages"] = [name for name in FACTS["packages"] if name not in lacking]
        return {"changed": False, "ansible_facts": {"fleet": facts}}
