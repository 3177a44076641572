"""Reads where filesystems are mounted on this host."""

from __future__ import annotations

import os
import re
from pathlib import Path

# The kernel writes spaces and the like as octal numbers.
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def mount_points(table: Path = Path("/proc/self/mountinfo")) -> frozenset[str]:
    """Return the real paths at which something is mounted, including bind mounts, which share a device with others."""
    paths = (line.split(b" ")[4] for line in table.read_bytes().split(b"\n") if line)
    return frozenset(
        os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), path)) for path in paths
    )


def lies_at(path: str, points: frozenset[str]) -> bool:
    """Return whether one of these mount points is at a path. A link to one is none."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name) in points
