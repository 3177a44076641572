"""Action plugin `release`: sends an archive to the hosts that lack the release and has it built there."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Looks first, in one cheap command; only a host without the release costs more."""

    _supports_check_mode = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Build the release where it is missing and make sure that it has all tasks that are scheduled."""
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        identity, archive = str(args["id"]), str(args.pop("archive"))
        path = f"{args['root']}/releases/{identity}"
        found = self._low_level_execute_command(
            f"cat {shlex.quote(path)}/release.json 2>/dev/null; exit 0"
        )
        if found["stdout"].strip():
            missing = sorted(set(args.get("tasks", [])) - set(json.loads(found["stdout"])["tasks"]))
            if missing:
                raise AnsibleActionFail(
                    f"celery_beat_schedule: release {identity} has no task {', '.join(missing)}. Correct the entry, "
                    "or deploy code that has it; nothing was changed."
                )
            result.update(changed=False, release=identity, path=path)
            return result
        if self._task.check_mode:
            result.update(
                changed=True, release=identity, path=path, msg=f"release {identity} would be built"
            )
            return result
        made = self._make_tmp_path()
        shell = self._connection._shell  # noqa: SLF001 - as Ansible's own action plugins do
        remote = shell.join_path(made, "release.tar.gz")
        self._transfer_file(archive, remote)
        result.update(
            self._execute_module(
                module_name="release",
                module_args={**args, "archive": remote},
                task_vars=task_vars or {},
            )
        )
        return result
