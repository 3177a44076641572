"""Old log files. The living ones, and which are moved away when, is logrotate's to say."""

from __future__ import annotations

import re
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

# Names that a rotation leaves, with a number or with a date (`dateext`), and compressed: what is not compressed yet
# is the living file, or one that logrotate compresses the next time.
ROTATED = re.compile(r"[^/]+\.log(?:\.\d+|-\d{8}(?:-?\d{1,10})?)\.gz")


def remove_old(directory: Path, before: datetime) -> dict[str, Any]:
    """Remove rotated files in `directory` that have not changed since `before`; return which, and their bytes."""
    removed, size = [], 0
    try:
        found = sorted(directory.iterdir())
    except FileNotFoundError:
        return {
            "removed": [],
            "bytes": 0,
            "text": f"{directory} is not there: no logs on this host",
        }
    for path in found:
        if not ROTATED.fullmatch(path.name):
            continue
        try:
            status = path.lstat()
            # The time of the last line: compressing keeps it.
            if not stat.S_ISREG(status.st_mode) or status.st_mtime >= before.timestamp():
                continue
            path.unlink()
        except FileNotFoundError:
            # logrotate was quicker.
            continue
        removed.append(path.name)
        size += status.st_size
    return {"removed": removed, "bytes": size, "text": f"{len(removed)} files of {directory}"}
