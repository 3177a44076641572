"""The result of a host's check of its health: a file that anyone may read, with nothing secret in it.

    /var/lib/celery-fleet/health/<app>.json
    {"format": 1, "app": "shop", "host": "worker1", "state": "bad", "previous": "good",
     "since": "2026-01-02T03:00:00.120+00:00", "checked": "2026-01-02T03:00:00.120+00:00", "seconds": 1.2,
     "interval": 300, "invocation": "…",
     "checks": {"disk": {"state": "bad", "text": "/: 2 % free …", "value": {…}}, …}}

``checked`` is when the check began, ``since`` when the host came to this state. Standard library alone.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/celery-fleet/health")
FORMAT = 1

GOOD, WARNING, BAD = "good", "warning", "bad"
#: The state of a host of which nothing was found out yet.
UNKNOWN = "unknown"
_ORDER = (GOOD, WARNING, BAD)

#: A result older than this many intervals tells nothing of now.
INTERVALS = 2


@dataclass(frozen=True)
class Finding:
    """What one check has found; ``text`` is one line for people, ``value`` plain data for programs."""

    state: str
    text: str
    value: Any = None


def worst(states: Iterable[str]) -> str:
    """The worst of some states; good where there is none."""
    return max(states, key=_ORDER.index, default=GOOD)


def moment(now: datetime | None = None) -> str:
    """A time as results have it."""
    return (now or datetime.now(UTC)).isoformat(timespec="milliseconds")


def path_of(app: str, directory: Path | None = None) -> Path:
    """The file of an application."""
    return (directory or STATE) / f"{app}.json"


def read(path: Path) -> dict[str, Any]:
    """A result.

    Raises:
        OSError, ValueError: There is none, or none that this version reads.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"is no result of format {FORMAT}")
    if found.get("state") not in _ORDER or not isinstance(found.get("checks"), dict):
        raise ValueError("has no state")
    datetime.fromisoformat(str(found.get("checked")))
    return found


def before(path: Path) -> dict[str, Any]:
    """The last result; an empty one where there is none, or none that can be read."""
    try:
        return read(path)
    except (OSError, ValueError):
        return {}


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Put a result in the place of the last one, whole or not at all."""
    try:
        _put(path, result)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # The room of the last one is enough; and where it is not, none is better than one of before the disk was full.
        path.unlink(missing_ok=True)
        _put(path, result)


def _put(path: Path, result: Mapping[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(fresh, "x", encoding="utf-8") as stream:
            # Whatever the umask: the application reads it as well.
            os.fchmod(stream.fileno(), 0o644)
            stream.write(json.dumps(result, indent=2) + "\n")
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def age(result: Mapping[str, Any], now: datetime | None = None) -> float:
    """Seconds since the check began; never less than 0."""
    checked = datetime.fromisoformat(str(result["checked"]))
    return max(0.0, ((now or datetime.now(UTC)) - checked).total_seconds())


def stale(result: Mapping[str, Any], seconds: float) -> bool:
    """Whether a result of this age is too old to tell of now."""
    return seconds > INTERVALS * float(result.get("interval", 300))


def compose(
    *,
    app: str,
    host: str,
    interval: float,
    findings: Mapping[str, Finding],
    last: Mapping[str, Any],
    checked: str,
    seconds: float,
    invocation: str,
) -> dict[str, Any]:
    """A result out of what the checks have found; ``last`` is the one before it, an empty one where there was none."""
    state = worst(finding.state for finding in findings.values())
    previous = str(last.get("state", UNKNOWN))
    return {
        "format": FORMAT,
        "app": app,
        "host": host,
        "state": state,
        "previous": previous,
        "since": last.get("since", checked) if state == previous else checked,
        "checked": checked,
        "seconds": round(seconds, 2),
        "interval": interval,
        "invocation": invocation,
        "checks": {
            name: {"state": found.state, "text": found.text, "value": found.value}
            for name, found in findings.items()
        },
    }
