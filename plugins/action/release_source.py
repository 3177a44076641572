"""Action plugin `release_source`: packs the application on the control node, once for all hosts."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    cache,
    requirements,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import pack


class ActionModule(FleetAction):
    """Contacts no host; the archive is in a cache directory of the user who runs Ansible."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Pack the source; return `id`, path of the `archive`, `requirements`, and `queues` unchanged."""
        config = variables.get("ansible_config_file")
        base = Path(config).parent if config else Path.cwd()
        with tempfile.TemporaryDirectory(prefix="celery-fleet-") as scratch:
            source = args["source"]
            packed = pack(source, base, Path(scratch), str(args.get("python", "")))
            needed = requirements.read(packed.directory, source, packed.exported)
        path = cache.directory("releases") / f"{packed.id}.tar.gz"
        # A dry run builds nothing, so it needs no archive.
        if not self._task.check_mode:
            cache.keep(path, packed.archive)
        return {
            "id": packed.id,
            "archive": str(path),
            "requirements": asdict(needed),
            "queues": [str(name) for name in args.get("queues") or []],
        }
