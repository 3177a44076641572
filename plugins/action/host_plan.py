"""Action plugin `host_plan`: compares one host with everything that the inventory wants there, in one remote call.

It only runs in check mode (`check_mode: true` on its task). The roles' variables `__<role>_wanted` must be defined, so
the play has to import the roles.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import plan, rendering
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import parts_of

#: Variables on which most of a host's wanted state depends. Ansible renders a variable each time another one reads it.
READ_BY_MOST = (
    *("__celery_app_groups", "__celery_app_member_of", "__celery_app_has_web"),
    *("__celery_app_components", "celery_app_config_directory", "celery_app_host_names"),
)


class ActionModule(FleetAction):
    """Renders every part and calls the module `reconcile` once."""

    _supports_diff = True
    _VALID_ARGS: frozenset[str] = frozenset()

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return `items` of this host, `due` (the parts that a run has to apply), `states`, `waiting` and `remarks`."""
        host = str(variables["inventory_hostname"])
        member = [group for group, hosts in self.groups(variables).items() if host in hosts]
        parts = parts_of(member, variables["ansible_run_tags"], variables["ansible_skip_tags"])
        # Rendered once, they save a quarter of the time that this task takes on the control node.
        variables = {**variables, **{name: self._value(name) for name in READ_BY_MOST}}
        self._templar.available_variables = variables
        renderer = rendering.Renderer(self._templar, self._loader, variables)
        wanted = [(part.name, renderer.wanted(self._value(part.variable))) for part in parts]
        if not wanted:
            return {"items": [], "due": [], "states": {}, "waiting": {}, "remarks": []}
        answer = self.execute("reconcile", renderer.module_args({"parts": wanted}), variables)
        if answer.get("failed"):
            return answer
        items = [item.as_dict() for item in plan.items_of(host, answer["pending"])]
        result = {
            # In a run that changes things, `changed` comes from the tasks that do it.
            "changed": bool(items) and bool(variables["ansible_check_mode"]),
            "items": items,
            "due": [name for name, due in answer["parts"].items() if due],
            "states": answer["states"],
            "waiting": answer["waiting"],
            "remarks": answer["remarks"],
        }
        if "diff" in answer:
            result["diff"] = answer["diff"]
        return result

    def _value(self, name: str) -> Any:
        return rendering.value(self._templar, name)
