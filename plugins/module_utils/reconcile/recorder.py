"""Installs what the recorder needs on a host: its program, the host's key, and a list of inputs for each unit.

Runs on the host, inside the `reconcile` module, as root. The recorder itself is `fingerprint`, which units run when
they start.
"""

from __future__ import annotations

import inspect
import os
import secrets
from pathlib import Path

from . import fingerprint
from .desired_state import Unit
from .files import replace
from .fingerprint import Disk
from .host import HostPaths
from .report import Change, HostReport


def install_program(
    part: str, paths: HostPaths, disk: Disk, report: HostReport, *, check: bool
) -> None:
    """Install the recorder if it is missing or differs.

    Args:
        part: The role to report the change for.
        paths: The host's paths.
        disk: The disk as it is, or will be.
        report: Receives the change.
        check: Write nothing.
    """
    # Works even if this package is in the zip archive that Ansible sends.
    source = inspect.getsource(fingerprint).encode()
    path = Path(paths.recorder)
    if disk.read(str(path)) == source:
        return
    report.changes.append(Change(part, str(path)))
    if not check:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace(path, source, 0o644, os.geteuid(), os.getegid())


def ensure_key(paths: HostPaths, *, check: bool) -> bytes | None:
    """Return the host's key; create it if it is missing. In check mode return None instead."""
    key = fingerprint.read_key(paths.key)
    if key is None and not check:
        path = Path(paths.key)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        key = secrets.token_bytes(fingerprint.KEY_LENGTH)
        replace(path, key, 0o600, os.geteuid(), os.getegid())
    return key


def write_inputs(unit: Unit, key: bytes, paths: HostPaths) -> None:
    """Write the list of inputs that the recorder reads when the unit next starts."""
    path = f"{paths.lists}/{unit.name}.json"
    content: dict[str, object] = {
        "format": fingerprint.FORMAT,
        "files": list(unit.files),
        "links": list(unit.links),
        "values": fingerprint.values(unit.values, key),
    }
    if fingerprint.read_object(path) != content:
        fingerprint.write_object(path, content)
