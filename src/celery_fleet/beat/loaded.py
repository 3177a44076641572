"""Write what beat has loaded, and when it last checked its schedule, to files that the fleet's checks read.

``schedule.json`` has the entries; the modification time of the empty file ``tick`` is that of the last check.

The files are in beat's runtime directory and disappear with the process. They show the entries that the running
scheduler holds, from any source, which the inventory can't tell.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from celery_fleet.common import json_file
from celery_fleet.compat.schedule import Loaded

log = logging.getLogger(__name__)


DIRECTORY_VARIABLE = "RUNTIME_DIRECTORY"

NAME = "schedule.json"

#: An empty file. Its time is that of beat's last check of its schedule, even of one without entries.
TICK = "tick"

#: Seconds between two updates of its time.
TICK_INTERVAL = 2.0

#: Seconds between two looks at all entries. Each takes time, and Celery ticks once for each entry that it sends.
LOOK_INTERVAL = 1.0

#: How many times as long as a look they are at least. With 20,000 entries a look takes most of a second.
LOOK_PAUSE = 10


class Writer:
    """Writes the file whenever an entry or a due time has changed."""

    def __init__(self, directory: str | None) -> None:
        # systemd separates several directories with colons; beat has one.
        self.path = Path(directory.split(":")[0]) / NAME if directory else None
        self._written: tuple[Loaded, ...] | None = None

    def write(
        self, entries: Iterable[Loaded], zone: str = "UTC", *, stands_by: bool = False
    ) -> None:
        """Write the file if something changed. A full disk must not stop beat: errors are only logged, once per change.

        ``zone`` is the time zone of the schedule. ``stands_by`` says that another beat sends these entries.
        """
        now = tuple(sorted(entries, key=lambda entry: entry.name))
        if self.path is None or now == self._written:
            return
        self._written = now
        held = [asdict(entry) for entry in now]
        found = {"zone": zone, "stands_by": stands_by, "entries": held}
        try:
            # The exporter is in the application's group.
            json_file.replace(self.path, found, 0o640)
        except OSError as error:
            log.warning("%s can't be written: %s", self.path, error)


class Tick:
    """Updates the file's time, at most every :data:`TICK_INTERVAL` seconds."""

    def __init__(self, directory: str | None) -> None:
        self.path = Path(directory.split(":")[0]) / TICK if directory else None
        self._noted = float("-inf")

    def note(self) -> None:
        """Note that beat has just checked its schedule. An error must not stop beat; the file's time shows it."""
        now = time.monotonic()
        if self.path is None or now - self._noted < TICK_INTERVAL:
            return
        self._noted = now
        with contextlib.suppress(OSError):
            self.path.touch()


class Looks:
    """Decides after which ticks beat looks at all of its entries.

    That is once in :data:`LOOK_INTERVAL` while tick follows tick, and always before a longer pause. If a look takes
    long, the interval is :data:`LOOK_PAUSE` times as long.
    """

    def __init__(self) -> None:
        self._began = self._ended = float("-inf")
        self._interval = LOOK_INTERVAL
        #: Whether beat has ticked since without looking.
        self.behind = False

    def due(self, pause: float) -> bool:
        """Return whether it is time after a tick; ``pause`` has the seconds until the next one."""
        now = time.monotonic()
        self.behind = pause < self._interval and now - self._ended < self._interval
        self._began = now
        return not self.behind

    def ended(self) -> None:
        """Note that a look has ended, which was due just before."""
        self._ended = time.monotonic()
        self._interval = max(LOOK_INTERVAL, LOOK_PAUSE * (self._ended - self._began))
