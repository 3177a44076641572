"""nginx, which goes on for a host's other sites: whether it runs with what is on disk, and its record after a reload.

Runs on the host, as root.
"""

from __future__ import annotations

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    comparison,
    fingerprint,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import Host

UNIT = "nginx.service"


def is_current(host: Host) -> bool:
    """Return whether nginx runs with what is on disk, as far as its record tells."""
    state = host.show([UNIT])[UNIT]
    known, _ = comparison.known(UNIT, state.invocation, f"{host.base}{fingerprint.RECORDS}")
    inputs = _inputs(host, state)
    return known is not None and inputs is not None and comparison.compare(known, inputs) == []


def write_record(host: Host) -> None:
    """Note what nginx has read now, or the next run of another application would reload it once more."""
    state = host.show([UNIT])[UNIT]
    records = f"{host.base}{fingerprint.RECORDS}"
    if inputs := _inputs(host, state):
        fingerprint.write_record(UNIT, state.invocation, inputs, directory=records)


def _inputs(host: Host, state: systemd.UnitState) -> dict[str, str] | None:
    """Return the fingerprints of what nginx would be started with now."""
    base = host.base
    listed = fingerprint.read_object(f"{base}{fingerprint.LISTS}/{UNIT}.json")
    key = fingerprint.read_key(f"{base}{fingerprint.KEY}")
    files, links, values = (listed.get(name) for name in ("files", "links", "values"))
    if key is None or not isinstance(files, list) or not isinstance(values, dict):
        return None
    further = {str(name): str(value) for name, value in values.items()}
    named = [str(link) for link in links] if isinstance(links, list) else []
    disk = fingerprint.Disk()
    return fingerprint.inputs(state.sources, map(str, files), named, further, key, disk)
