"""Where the files that the exporter reads are, and how it reads them; any may be missing, damaged or hostile."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from celery_fleet.common import backup_record
from celery_fleet.common.small_file import LARGEST, content
from celery_fleet.health import result

#: The only format of these files.
FORMAT = 1

# JSON can contain halves of a surrogate pair, which have no bytes in UTF-8.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class MetricPlaces:
    """The files of an application on this host; tests have them below another root."""

    app: str
    root: Path = Path("/")
    #: The application's state directory; empty for the default.
    state: str = ""

    @property
    def _metrics(self) -> Path:
        return self.root / (self.state or f"/var/lib/{self.app}").lstrip("/") / "metrics"

    def worker(self, name: str) -> Path:
        """Return the file of a worker."""
        return self._metrics / f"worker-{name}.json"

    @property
    def beat(self) -> Path:
        """The file with beat's counts."""
        return self._metrics / "beat.json"

    def ends(self, unit: str) -> Path:
        """Return the file with the ends of a unit."""
        return self.root / f"var/lib/celery-fleet/ends/{unit}.json"

    def hand_backs(self, name: str) -> Path:
        """Return the file with what the hand-backs of a worker have done."""
        return self._metrics / f"hand-back-{name}.json"

    @property
    def changed(self) -> Path:
        """The file whose time is that of the last run that changed this host."""
        return self.root / f"var/lib/celery-fleet/changed/{self.app}"

    @property
    def backup(self) -> Path:
        """The record of the last backup of Redis."""
        return backup_record.path_of(self.app, self.root)

    @property
    def backup_timer(self) -> Path:
        """The unit file of the timer of backups."""
        return self.root / f"etc/systemd/system/{self.app}-backup.timer"

    @property
    def health(self) -> Path:
        """The result of the health check."""
        return result.path_of(self.app, self.root / result.STATE.relative_to("/"))


def document(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: It is missing.
        OSError, ValueError: It can't be read, or is not what it should be.
    """
    raw = content(path, largest)
    found = json.loads(raw, parse_constant=_refuse)
    if _SURROGATE.search(raw):
        found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found


def counted(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """Return the content of a file with counts.

    Raises:
        FileNotFoundError: It is missing.
        OSError, ValueError: It can't be read, or has another format.
    """
    found = document(path, largest)
    if found.get("format") != FORMAT:
        raise ValueError(f"the format of {path} is not {FORMAT}")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
