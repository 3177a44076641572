"""Follows a replica that copies its primary's data, so that a run waits for it, and not for ever.

Runs on the host, inside the `reconcile` module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# After so many, a replica is no longer expected to succeed with the next copy.
_FAILED_COPIES = 3


@dataclass
class Copies:
    """A replica's attempts to copy its primary's data.

    A replica that can't read the data, because its server is older, tries for ever.
    """

    failed: int = 0
    _read: int = -1

    def goes_on(self, found: Mapping[str, str]) -> bool:
        """Return whether a copy is under way that may succeed, from what the replica says now."""
        under_way = found.get("master_sync_in_progress") == "1"
        read = int(found.get("master_sync_read_bytes") or 0) if under_way else -1
        self.failed += read < self._read
        self._read = read
        return under_way and self.failed <= _FAILED_COPIES
