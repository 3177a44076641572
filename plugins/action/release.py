"""Action plugin `release`: sends the archive to hosts that lack the release and builds it there."""

from __future__ import annotations

from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils import transport
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import refusals
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts, lease
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Checks first with one cheap command, so only hosts without the release cost more."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Build the release if it is missing, and check that it fits the inventory."""
        args = dict(args)
        identity, archive = str(args["id"]), str(args.pop("archive"))
        path = f"{args['root']}/releases/{identity}"
        found = self._low_level_execute_command(host_scripts.release_note(path))
        if found["stdout"].strip():
            demands = args.get("demands") or {}
            words = refusals(identity, found["stdout"], demands) if demands else []
            if words:
                raise UserError("\n".join([*words, "Running processes are not affected."]))
            return {"release": identity, "path": path}
        if self._task.check_mode:
            told = f"release {identity} would be built"
            return {"changed": True, "release": identity, "path": path, "msg": told}
        with lease.held(variables, check=False):
            return self._build(args, archive, variables)

    def _build(
        self, args: dict[str, Any], archive: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        made = self._make_tmp_path()
        shell = self._connection._shell  # noqa: SLF001 - as Ansible's own action plugins do
        sent = shell.join_path(made, "release.tar.gz")
        self._transfer_file(archive, sent)
        demands = transport.pack(args.get("demands") or {})
        return self.execute("release", {**args, "archive": sent, "demands": demands}, variables)
