"""Replace a file that other processes read. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def replace(path: Path, document: Mapping[str, Any], mode: int) -> None:
    """Write JSON beside a file and move it there, so that readers never see half of it. Only one process may write.

    Args:
        path: The file; its directory must exist.
        document: Its whole content.
        mode: Its permissions, regardless of the umask.

    Raises:
        OSError: It can't be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    # A signal's handler may interrupt this and write the file itself; then they must not share the new one.
    fresh.unlink(missing_ok=True)
    with open(fresh, "x", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(json.dumps(document) + "\n")
    os.replace(fresh, path)
