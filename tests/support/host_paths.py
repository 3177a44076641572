"""The places of the reconciler's own files, for a host below a directory."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import HostPaths


def host_paths(root: Path) -> HostPaths:
    """Return the paths of a host: units in `units`, the others in `state`."""
    state = root / "state"
    return HostPaths(
        units=f"{root}/units/",
        recorder=f"{state}/lib/fingerprint.py",
        key=f"{state}/key",
        lists=f"{state}/inputs",
        records=f"{state}/records",
        ends=f"{state}/ends",
        changed=f"{state}/changed",
    )
