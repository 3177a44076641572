"""What beat has really loaded, and when it last looked at it, where the fleet's checks read it.

``schedule.json`` has the entries; the time of the empty file ``tick`` is that of the last look.

The file lies in beat's runtime directory and goes with the process. It shows what the running
scheduler holds, whoever put it there, which the inventory alone can't tell.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from celery_fleet.compat.schedule import Loaded

log = logging.getLogger(__name__)


DIRECTORY_VARIABLE = "RUNTIME_DIRECTORY"

NAME = "schedule.json"

#: An empty file, whose time is that of beat's last look at its schedule; also of one without entries.
TICK = "tick"

#: Seconds between two touches.
TICK_INTERVAL = 2.0


class Writer:
    """Writes the file anew whenever an entry or a due time has changed."""

    def __init__(self, directory: str | None) -> None:
        # systemd lists several directories with colons between; beat has one.
        self.path = Path(directory.split(":")[0]) / NAME if directory else None
        self._written: tuple[Loaded, ...] | None = None

    def write(self, entries: Iterable[Loaded], zone: str = "UTC") -> None:
        """Write if something changed. A full disk must not stop beat: it is logged, once a change.

        ``zone`` is the one in which the schedule is reckoned.
        """
        now = tuple(sorted(entries, key=lambda entry: entry.name))
        if self.path is None or now == self._written:
            return
        self._written = now
        fresh = self.path.with_suffix(".new")
        try:
            fresh.write_text(
                json.dumps({"zone": zone, "entries": [asdict(entry) for entry in now]}) + "\n"
            )
            os.replace(fresh, self.path)
        except OSError as error:
            log.warning("%s can't be written: %s", self.path, error)


class Tick:
    """Touches the file, at most every :data:`TICK_INTERVAL` seconds."""

    def __init__(self, directory: str | None) -> None:
        self.path = Path(directory.split(":")[0]) / TICK if directory else None
        self._noted = float("-inf")

    def note(self) -> None:
        """Beat has looked at its schedule just now. What fails must not stop it, and shows by the file's time."""
        now = time.monotonic()
        if self.path is None or now - self._noted < TICK_INTERVAL:
            return
        self._noted = now
        with contextlib.suppress(OSError):
            self.path.touch()
