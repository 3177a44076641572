"""Action plugin `settle`: renders a role's files on the control side and settles a host in one call."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.module_utils import packed, redact
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, payload

OPTIONS = ("units", "restart", "finish")


class ActionModule(ActionBase):
    """Renders `files` that name a template (`src`) and hands all to the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Render, pack, execute; all templating errors are reported at once, each with its file."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        args = dict(self._task.args)
        options = {name: args.pop(name) for name in OPTIONS if name in args}
        wanted = args.pop("wanted", None)
        if args or wanted is None:
            unknown = f"unknown option {', '.join(sorted(args))}" if args else "wanted is missing"
            raise AnsibleActionFail(f"settle: {unknown}")
        renderer = payload.Renderer(self._templar, self._loader, variables)
        text = packed.pack(renderer.wanted(wanted))
        options["manifest"] = payload.manifest(self._templar)
        try:
            with lease.held(variables, check=self._task.check_mode):
                answer = self._execute_module(
                    module_name="celery_fleet.core.settle",
                    module_args={"wanted": text, **options},
                    task_vars=variables,
                )
        except lease.LostError as lost:
            raise AnsibleActionFail(str(lost)) from None
        if answer.get("failed"):
            answer = redact.clean_answer(answer, payload.secrets(self._templar))
        return dict(answer)
