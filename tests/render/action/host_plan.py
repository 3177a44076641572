"""Replaces the action plugin `host_plan`: works in the same way, but writes the request to the host to a file."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import zlib
from typing import Any

from plugins.action.host_plan import ActionModule as Delivered
from tests.collection import plain

ROLES = (
    *("celery_app_", "celery_beat_", "celery_health_", "celery_producer_", "celery_worker_"),
    *("firewall_", "flower_", "redis_"),
)


class ActionModule(Delivered):
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
