"""Replaces the action plugin `host_plan`: works in the same way, but writes the request to the host to a file."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

PLUGIN = Path(__file__).resolve().parents[3] / "plugins/action/host_plan.py"
SPEC = importlib.util.spec_from_file_location("delivered_fleet_plan", PLUGIN)
assert SPEC is not None
assert SPEC.loader is not None
delivered = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(delivered)


ROLES = (
    *("celery_app_", "celery_beat_", "celery_health_", "celery_producer_", "celery_worker_"),
    *("firewall_", "flower_", "redis_"),
)


def plain(value: Any) -> Any:
    """Return the value without Ansible's lazy containers."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


class ActionModule(delivered.ActionModule):  # type: ignore[misc,name-defined]  # loaded at run time
    """Renders as the delivered plugin does."""

    def _execute_module(
        self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        assert module_name == "celery_fleet.core.reconcile"
        payload = module_args.pop("wanted")
        directory = self._templar.template(task_vars["celery_app_config_directory"])
        assert module_args == {"manifest": f"{directory}/manifest.json"}
        variables = {
            name: plain(self._templar.template(value))
            for name, value in task_vars.items()
            if name.startswith(ROLES)
        }
        parts = json.loads(zlib.decompress(base64.b64decode(payload)))["parts"]
        call = {
            "host": task_vars["inventory_hostname"],
            "variables": variables,
            "parts": dict(parts),
        }
        # Use a file for each host, because the hosts run in parallel processes.
        with tempfile.NamedTemporaryFile(
            "w", dir=os.environ["RENDERED"], suffix=".json", delete=False
        ) as stream:
            json.dump(call, stream, default=str)
        return {
            "changed": False,
            "pending": [],
            "states": {},
            "parts": {},
            "waiting": {},
            "remarks": [],
        }
