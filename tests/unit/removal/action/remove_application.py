"""Replaces the action plugin `remove_application`: the delivered one up to the request to the host."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

HERE = Path(__file__)


def _loaded(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scripted = _loaded("scripted", HERE.with_name("scripted.py"))
delivered = _loaded(
    "delivered_fleet_removal", HERE.resolve().parents[4] / "plugins/action/remove_application.py"
)


class ActionModule(delivered.ActionModule):  # type: ignore[misc]  # loaded at run time
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
