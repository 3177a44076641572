"""Action plugin `release_source`: packs the application on the control side, once for all hosts."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import SourceError, pack

#: Seconds that an archive is kept after the last run that packed the same; longer than any run takes.
KEPT = 7 * 24 * 3600.0


def _keep(path: Path, archive: bytes) -> None:
    """Write an archive where it is not there yet, and remove those that no run has packed for long."""
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


class ActionModule(ActionBase):
    """Touches no host: its archive lies in a cache directory of the user who runs Ansible."""

    _supports_check_mode = True
    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Pack; returns `id`, the path of the `archive`, and `queues` as they were given, for all hosts at once."""
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        config = variables.get("ansible_config_file")
        base = Path(config).parent if config else Path.cwd()
        try:
            with tempfile.TemporaryDirectory(prefix="celery-fleet-") as scratch:
                identity, archive = pack(
                    self._task.args["source"],
                    base,
                    Path(scratch),
                    str(self._task.args.get("python", "")),
                )
        except SourceError as error:
            raise AnsibleActionFail(str(error)) from None
        cache = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            / "celery-fleet"
            / "releases"
        )
        path = cache / f"{identity}.tar.gz"
        # A dry run builds nothing, and so sends no archive.
        if not self._task.check_mode:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            _keep(path, archive)
        queues = [str(name) for name in self._task.args.get("queues") or []]
        result.update(changed=False, id=identity, archive=str(path), queues=queues)
        return result
