"""Replaces the action plugin `remove_application`: the delivered one up to the request to the host."""

from __future__ import annotations

from typing import Any

from plugins.action.remove_application import ActionModule as Delivered
from tests.unit.removal import scripted


class ActionModule(Delivered):
    """Answers as the test describes."""

    def _execute_module(
        self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        assert module_name == "celery_fleet.core.remove_application"
        assert module_args["places"]["directory"] == "/etc/celery-fleet/shop"
        assert module_args["places"]["redis_config"] == "/etc/celery-fleet/redis"
        host, do = task_vars["inventory_hostname"], module_args["do"]
        scripted.told(host, do, *filter(None, [module_args.get("stage", "")]))
        answers = scripted.answers()
        if do == "look":
            return {"changed": False, "found": answers["found"][host]}
        if do == "messages":
            return {"changed": False, "messages": answers["messages"]}
        if do == "stop":
            return {"changed": True, "stopped": [], "waiting": {}}
        return {"changed": True, "removed": ["something"]}
