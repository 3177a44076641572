"""What the recorder needs on a host: its program, the host's key, and for each unit the list of what it reads.

Runs on the host, inside the `settle` module, as root. The recorder itself is `fingerprint`, which units call at their
start.
"""

from __future__ import annotations

import inspect
import os
import secrets
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import fingerprint
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.files import replace
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import Places
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import (
    Change,
    Report,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Unit


def settle_program(part: str, places: Places, disk: Disk, report: Report, *, check: bool) -> None:
    """Put the recorder in its place, if it is not there as it should be.

    Args:
        part: The role that the change is noted for.
        places: Where it goes.
        disk: What is there, or will be.
        report: Gets the change.
        check: Write nothing.
    """
    # Also if this package comes from the archive that Ansible sends.
    source = inspect.getsource(fingerprint).encode()
    path = Path(places.recorder)
    if disk.read(str(path)) == source:
        return
    report.changes.append(Change(part, str(path)))
    if not check:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace(path, source, 0o644, os.geteuid(), os.getegid())


def settle_key(places: Places, *, check: bool) -> bytes | None:
    """Return the host's key, made if there is none; in check mode None then."""
    key = fingerprint.read_key(places.key)
    if key is None and not check:
        path = Path(places.key)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        key = secrets.token_bytes(fingerprint.KEY_LENGTH)
        replace(path, key, 0o600, os.geteuid(), os.getegid())
    return key


def settle_list(unit: Unit, key: bytes, places: Places) -> None:
    """Write what the recorder reads at the unit's next start."""
    path = f"{places.lists}/{unit.name}.json"
    content: dict[str, object] = {
        "format": fingerprint.FORMAT,
        "files": list(unit.files),
        "links": list(unit.links),
        "values": fingerprint.values(unit.values, key),
    }
    if fingerprint.read_object(path) != content:
        fingerprint.write_object(path, content)
