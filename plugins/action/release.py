"""Action plugin `release`: sends an archive to the hosts that lack the release and has it built there."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.module_utils import packed, redact
from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import refusals
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, payload, remote


class ActionModule(ActionBase):
    """Looks first, in one cheap command; only a host without the release costs more."""

    _supports_check_mode = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Build the release where it is missing and make sure that it suits the inventory."""
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        identity, archive = str(args["id"]), str(args.pop("archive"))
        path = f"{args['root']}/releases/{identity}"
        found = self._low_level_execute_command(remote.release_note(path))
        if found["stdout"].strip():
            demands = args.get("demands") or {}
            words = refusals(identity, found["stdout"], demands) if demands else []
            if words:
                raise AnsibleActionFail("\n".join([*words, "What runs goes on as it is."]))
            result.update(changed=False, release=identity, path=path)
            return result
        if self._task.check_mode:
            result.update(
                changed=True, release=identity, path=path, msg=f"release {identity} would be built"
            )
            return result
        try:
            with lease.held(task_vars or {}, check=False):
                result.update(self._build(args, archive, task_vars or {}))
        except lease.LostError as lost:
            raise AnsibleActionFail(str(lost)) from None
        return result

    def _build(
        self, args: dict[str, Any], archive: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        made = self._make_tmp_path()
        shell = self._connection._shell  # noqa: SLF001 - as Ansible's own action plugins do
        sent = shell.join_path(made, "release.tar.gz")
        self._transfer_file(archive, sent)
        built: dict[str, Any] = self._execute_module(
            module_name="celery_fleet.core.release",
            module_args={
                **args,
                "archive": sent,
                "demands": packed.pack(args.get("demands") or {}),
            },
            task_vars=variables,
        )
        if built.get("failed"):
            built = redact.clean_answer(built, payload.secrets(self._templar))
        return built
