"""``drain.json``: how far a worker's drain has come, for whoever waits for its end.

The file lies in the unit's state directory, which outlives the process: after it has gone the
record still says what it handed back. It counts for the invocation that it names, and no other.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "STATE_DIRECTORY"
INVOCATION_VARIABLE = "INVOCATION_ID"
NAME = "drain.json"

#: Seconds between two writings while the drain goes on.
INTERVAL = 1.0


@dataclass(frozen=True)
class Progress:
    """A drain's state: messages handed back, tasks that still run, and whether it came to its end."""

    handed_back: int
    running: int
    ended: bool = False


class Record:
    """Writes the file where a directory was given."""

    def __init__(self, directory: str | None, invocation: str | None = None) -> None:
        # systemd lists several directories with colons between; a worker has one.
        self.path = Path(directory.split(":")[0]) / NAME if directory else None
        self._invocation = invocation
        self._written: Progress | None = None
        self._written_at = float("-inf")

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Record:
        """The record of a process with this environment."""
        return cls(environ.get(DIRECTORY_VARIABLE), environ.get(INVOCATION_VARIABLE))

    def write(self, progress: Progress, seconds: float) -> None:
        """Write a change, the end at once and others once a second.

        ``seconds`` have gone by since the drain began. A full disk must not stop it: that is logged.
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
        fresh = self.path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(content) + "\n", encoding="utf-8")
            os.replace(fresh, self.path)
        except OSError as error:
            log.warning("%s can't be written: %s", self.path, error)
