"""Read what the last backup of Redis on this host has left for health, metrics and status; standard library only.

    /var/lib/<app>-backup/last.json
    {"format": 1, "tried": 1767322800.0, "succeeded": 1767322800.0, "name": "shop-20260102T030000Z", "bytes": 1234,
     "error": ""}

``tried`` and ``succeeded`` are Unix times: when the last backup began, and when the last good one did, which ``name``
and ``bytes`` are about. ``error`` says in one line why the last one failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from celery_fleet.common import json_file
from celery_fleet.common.pauses import LATEST
from celery_fleet.common.small_file import DAMAGED, content

FORMAT = 1
NAME = "last.json"
#: Seconds by which a time may be ahead, because a clock was corrected meanwhile.
SKEW = 300.0


@dataclass(frozen=True)
class BackupRecord:
    """The last backup, and the last good one; `succeeded` is 0 before the first good one."""

    tried: float
    succeeded: float = 0.0
    name: str = ""
    bytes: int = 0
    error: str = ""

    def is_ahead(self, now: float) -> bool:
        """Return whether the last good backup has a time that is still to come, so that its age is unknown."""
        return self.succeeded > now + SKEW


def path_of(app: str, root: Path = Path("/")) -> Path:
    """Return the path of an application's record."""
    return root / f"var/lib/{app}-backup" / NAME


def read(path: Path) -> BackupRecord | None:
    """Read the record; None before the first backup.

    Raises:
        OSError, ValueError: It can't be read, or is damaged.
    """
    try:
        raw: Mapping[str, Any] = json.loads(content(path))
        if raw["format"] != FORMAT:
            raise ValueError(f"its format is {raw['format']}, not {FORMAT}")
        tried, succeeded = float(raw["tried"]), float(raw["succeeded"])
        if not (0 <= tried < LATEST and 0 <= succeeded < LATEST):
            raise ValueError("it has a time that no clock shows")
        return BackupRecord(
            tried,
            succeeded,
            str(raw["name"]),
            int(raw["bytes"]),
            str(raw["error"]),
        )
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def write(path: Path, record: BackupRecord) -> None:
    """Replace the record; every user may read it.

    Raises:
        OSError: It can't be written.
    """
    json_file.replace(path, {"format": FORMAT, **asdict(record)}, 0o644)
