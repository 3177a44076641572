"""Action plugin `remove_application`: runs one step of a removal on one host, by the module of the same name.

`do: stop` waits until the units of a stage have ended, as long as systemd allows. It repeats short calls, so that a
lost connection interrupts nothing, and regularly shows what it waits for.
"""

from __future__ import annotations

from typing import Any

from ansible.utils.display import Display
from ansible_collections.celery_fleet.core.plugins.module_utils import redact
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

PLACES = {
    "app": "celery_app_name",
    "directory": "celery_app_config_directory",
    "root": "celery_app_root",
    "state": "celery_app_state_directory",
    "redis_config": "redis_config_directory",
}
# Seconds that one call waits, and between lines of progress.
PATIENCE = 20


class ActionModule(FleetAction):
    """Calls the module, repeatedly for `stop`."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the module's result."""
        args = {**args, "places": self._places(variables)}
        return self._stop(args, variables) if args["do"] == "stop" else self._call(args, variables)

    def _places(self, variables: dict[str, Any]) -> dict[str, str]:
        found = {key: variables.get(name) for key, name in PLACES.items()}
        # A fleet that does not use a role may lack its variables.
        found["redis_config"] = found["redis_config"] or "/etc/celery-fleet/redis"
        return {key: str(self._templar.template(value)) for key, value in found.items()}

    def _call(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        looks = args["do"] in ("look", "messages", "finish")
        with lease.held(variables, check=looks or self._task.check_mode):
            # Without `execute`, which renders secrets: the inventory of a removal may lack them.
            answer: dict[str, Any] = redact.printable(
                self._execute_module(
                    module_name="celery_fleet.core.remove_application",
                    module_args=args,
                    task_vars=variables,
                )
            )
        return answer

    def _stop(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        changed = False
        while True:
            answer = self._call({**args, "patience": PATIENCE}, variables)
            changed = changed or bool(answer.get("changed"))
            if answer.get("failed") or not answer["waiting"]:
                return {**answer, "changed": changed}
            for unit, status in answer["waiting"].items():
                Display().display(
                    f"{variables['inventory_hostname']}: {unit} is stopping: it is {status}"
                )
