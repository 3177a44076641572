"""Action plugin `release_source`: packs the application on the control node, once for all hosts."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import pack

#: Seconds to keep an archive after the last run that packed the same source; longer than any run takes.
KEPT = 7 * 24 * 3600.0


def _keep(path: Path, archive: bytes) -> None:
    """Write an archive if it is missing, and remove those that no run has packed for a long time."""
    try:
        os.utime(path)
    except FileNotFoundError:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            stream.write(archive)
        os.replace(stream.name, path)
    for other in path.parent.iterdir():
        # Another run may remove it first.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - other.stat().st_mtime > KEPT:
                other.unlink()


class ActionModule(FleetAction):
    """Contacts no host; the archive is in a cache directory of the user who runs Ansible."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Pack the source; return `id`, the path of the `archive`, and `queues` unchanged, for all hosts at once."""
        config = variables.get("ansible_config_file")
        base = Path(config).parent if config else Path.cwd()
        with tempfile.TemporaryDirectory(prefix="celery-fleet-") as scratch:
            identity, archive = pack(
                args["source"], base, Path(scratch), str(args.get("python", ""))
            )
        cache = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            / "celery-fleet"
            / "releases"
        )
        path = cache / f"{identity}.tar.gz"
        # A dry run builds nothing, so it needs no archive.
        if not self._task.check_mode:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            _keep(path, archive)
        queues = [str(name) for name in args.get("queues") or []]
        return {"id": identity, "archive": str(path), "queues": queues}
