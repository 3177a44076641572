"""Action plugin `reconcile`: renders a role's files on the control node and reconciles a host in one call."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, rendering
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction

OPTIONS = ("units", "restart", "trial", "finish", "revoke")


class ActionModule(FleetAction):
    """Renders `files` that name a template (`src`) and passes everything to the module of the same name."""

    _supports_diff = True

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Render the templates and run the module; all templating errors are reported at once, each with its file."""
        args = dict(args)
        options = {name: args.pop(name) for name in OPTIONS if name in args}
        wanted = args.pop("wanted", None)
        if args or wanted is None:
            unknown = f"unknown option {', '.join(sorted(args))}" if args else "wanted is missing"
            raise AnsibleActionFail(f"reconcile: {unknown}")
        renderer = rendering.Renderer(self._templar, self._loader, variables)
        sent = renderer.module_args(renderer.wanted(wanted), **options)
        with lease.held(variables, check=self._task.check_mode):
            return self.execute("reconcile", sent, variables)
