"""What beat has really loaded, written where the fleet's checks read it: ``schedule.json``.

The file lies in beat's runtime directory and goes with the process. It shows what the running
scheduler holds, whoever put it there, which the inventory alone can't tell.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "RUNTIME_DIRECTORY"
NAME = "schedule.json"


@dataclass(frozen=True)
class Loaded:
    """One entry as the scheduler holds it; ``due`` is its next due time in UTC (ISO 8601)."""

    name: str
    task: str
    queue: str | None
    schedule: str
    due: str


class Writer:
    """Writes the file anew whenever an entry or a due time has changed."""

    def __init__(self, directory: str | None) -> None:
        # systemd lists several directories with colons between; beat has one.
        self.path = Path(directory.split(":")[0]) / NAME if directory else None
        self._written: tuple[Loaded, ...] | None = None

    def write(self, entries: Iterable[Loaded]) -> None:
        """Write if something changed. A full disk must not stop beat: it is logged, once a change."""
        now = tuple(sorted(entries, key=lambda entry: entry.name))
        if self.path is None or now == self._written:
            return
        self._written = now
        fresh = self.path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps({"entries": [asdict(entry) for entry in now]}) + "\n")
            os.replace(fresh, self.path)
        except OSError as error:
            log.warning("%s can't be written: %s", self.path, error)
