"""``drain.json``: the progress of a worker's drain, for programs that wait for its end.

The file is in the unit's state directory, which outlives the process. So it still says what a process handed back
after that has ended. It is valid only for the systemd invocation that it names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from celery_fleet.common import json_file

log = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "STATE_DIRECTORY"
INVOCATION_VARIABLE = "INVOCATION_ID"
NAME = "drain.json"

#: Seconds between two writes while the drain continues.
INTERVAL = 1.0


@dataclass(frozen=True)
class DrainProgress:
    """A drain's state: messages handed back, tasks that still run, and whether it has ended."""

    handed_back: int
    running: int
    ended: bool = False


class DrainRecord:
    """Writes the file, if there is a state directory."""

    def __init__(self, directory: str | None, invocation: str | None = None) -> None:
        # systemd separates several directories with colons; a worker has one.
        self.path = Path(directory.split(":")[0]) / NAME if directory else None
        self._invocation = invocation
        self._written: DrainProgress | None = None
        self._written_at = float("-inf")

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> DrainRecord:
        """Return the record of a process with this environment."""
        return cls(environ.get(DIRECTORY_VARIABLE), environ.get(INVOCATION_VARIABLE))

    def write(self, progress: DrainProgress, seconds: float) -> None:
        """Write a change: the end at once, other changes at most once a second.

        ``seconds`` is the time since the drain began. A full disk must not stop the drain, so errors are only logged.
        """
        if self.path is None or progress == self._written:
            return
        if not progress.ended and seconds - self._written_at < INTERVAL:
            return
        self._written, self._written_at = progress, seconds
        content = {
            "invocation": self._invocation,
            "pid": os.getpid(),
            **asdict(progress),
            "seconds": round(seconds, 3),
        }
        try:
            json_file.replace(self.path, content, 0o600)
        except OSError as error:
            log.warning("%s can't be written: %s", self.path, error)
