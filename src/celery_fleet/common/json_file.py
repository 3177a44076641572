"""Replace a file that other processes read. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def replace(path: Path, document: Mapping[str, Any], mode: int) -> None:
    """Write JSON into a file; see `replace_bytes`."""
    replace_bytes(path, f"{json.dumps(document)}\n".encode(), mode)


def replace_bytes(path: Path, content: bytes, mode: int, *, durable: bool = False) -> None:
    """Write beside a file and move it there, so that readers never see half of it. Only one process may write.

    Args:
        path: The file; its directory must exist.
        content: Its whole content.
        mode: Its permissions, regardless of the umask.
        durable: Whether the content must be on the disk before the file has it.

    Raises:
        OSError: It can't be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    # A signal's handler may interrupt this and write the file itself; then they must not share the new one.
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(fresh, flags, mode), "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
