"""The space on a filesystem. Only the standard library."""

from __future__ import annotations

import os


def space(system: os.statvfs_result) -> tuple[int, int]:
    """Return the free and the usable bytes of a filesystem, as df does it: without what is reserved for root."""
    usable = system.f_blocks - system.f_bfree + system.f_bavail
    return system.f_bavail * system.f_frsize, usable * system.f_frsize
