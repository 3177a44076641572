"""Action plugin `redis_restore`: reads a backup on the control node, and restores it by the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.module_utils.transport import pack
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import backup_files, lease
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Reads the backup, or calls the module."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the backup's files, or the module's result.

        Raises:
            UserError: No backup is named, or it can't be used.
        """
        if args["do"] != "read":
            with lease.held(variables, check=self._task.check_mode):
                # Packed, so that no log shows the login.
                packed = {name: pack(args.get(name) or []) for name in ("instances", "kept")}
                sent = {**args, **packed}
                return self.execute("redis_restore", sent, variables)
        if not args.get("backup"):
            raise UserError(
                "No backup is named. Nothing was changed. Copy one to this machine and run: ansible-playbook "
                "celery_fleet.core.restore_redis -e backup=shop-20260102T030000Z"
            )
        path = Path(str(args["backup"])).expanduser()
        return {"files": backup_files.read(path, str(args["app"]))}
