"""Action plugin `release_source`: packs the application on the control node, once for all hosts."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible import constants
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    cache,
    lock_files,
    requirements,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import RunFiles, pack

# Variables that name files or directories of a run.
_PATHS = (
    *("pki_directory", "celery_monitoring_directory"),
    *("fleet_plan_json", "fleet_plan_approved", "verify_report"),
)


class ActionModule(FleetAction):
    """Contacts no host; the archive is in a cache directory of the user who runs Ansible."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Pack the source; return `id`, path of the `archive`, `requirements`, and `queues` unchanged."""
        queues = [str(name) for name in args.get("queues") or []]
        if args.get("kept"):
            return {**self._kept(str(args["kept"])), "queues": queues}
        config = variables.get("ansible_config_file")
        base = Path(config).parent if config else Path.cwd()
        with tempfile.TemporaryDirectory(prefix="celery-fleet-") as scratch:
            source = args["source"]
            packed = pack(
                source, base, Path(scratch), str(args.get("python", "")), self._of_run(variables)
            )
            needed = requirements.read(packed.directory, source, packed.exported)
        path = cache.directory("releases") / f"{packed.id}.tar.gz"
        # A dry run builds nothing, so it needs no archive.
        if not self._task.check_mode:
            cache.keep(path, packed.archive)
        return {
            "id": packed.id,
            "archive": str(path),
            "requirements": asdict(needed),
            "queues": queues,
        }

    def _kept(self, identity: str) -> dict[str, Any]:
        """Return a release that the hosts keep. A host that lacks it gets the archive of the run that has packed it."""
        path = cache.directory("releases") / f"{identity}.tar.gz"
        if not cache.used(path):
            return {"id": identity, "archive": "", "requirements": {}}
        with tempfile.TemporaryDirectory(prefix="celery-fleet-") as scratch:
            with tarfile.open(path) as archive:
                archive.extractall(scratch, filter="data")
            exported = Path(scratch, lock_files.EXPORTED)
            source = self._task.args["source"]
            needed = requirements.read(
                Path(scratch), source, exported.read_bytes() if exported.is_file() else b""
            )
        return {"id": identity, "archive": str(path), "requirements": asdict(needed)}

    def _of_run(self, variables: Mapping[str, Any]) -> RunFiles:
        """Return the files of this run, which must not become part of a release."""
        given = (str(text) for text in variables.get("ansible_inventory_sources") or ())
        others = [
            constants.config.get_config_value("DEFAULT_LOG_PATH"),
            *(self._templar.template(variables.get(name) or "") for name in _PATHS),
        ]
        return RunFiles(
            # Others are lists of hosts, with a comma.
            [Path(text) for text in given if "," not in text and Path(text).exists()],
            [cache.directory(""), *(Path(str(path)) for path in others if path)],
        )
