"""Makes the data directory with which a Redis server starts from a snapshot. Runs on the host, as root.

A server with `appendonly yes` ignores a `dump.rdb` and starts empty (Redis 7.0.15). So for such a server the snapshot
becomes the base file of an append-only file, which is an RDB file as well.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_BASE = "appendonly.aof.1.base.rdb"
_MANIFEST = f"file {_BASE} seq 1 type b\n"


def make(directory: Path, snapshot: Path, appendonly: bool) -> None:
    """Make a data directory and flush it to the disk; it belongs to root.

    Args:
        directory: The directory, which must not exist.
        snapshot: The snapshot, of which it gets a copy.
        appendonly: Whether the server writes an append-only file.
    """
    files = directory / "appendonlydir" if appendonly else directory
    files.mkdir(parents=True)
    if appendonly:
        (files / "appendonly.aof.manifest").write_text(_MANIFEST)
    shutil.copyfile(snapshot, files / (_BASE if appendonly else "dump.rdb"))
    for path in dict.fromkeys((*files.iterdir(), files, directory)):
        path.chmod(0o700 if path.is_dir() else 0o600)
        flush(path)


def flush(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
