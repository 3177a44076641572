"""Read and write the result of a host's health check: a file without secrets, which every user may read.

    /var/lib/celery-fleet/health/<app>.json
    {"format": 1, "app": "shop", "host": "worker1", "state": "bad", "previous": "good",
     "since": "2026-01-02T03:00:00.120+00:00", "checked": "2026-01-02T03:00:00.120+00:00", "seconds": 1.2,
     "interval": 300, "invocation": "…", "worse": ["disk"],
     "checks": {"disk": {"state": "bad", "text": "/: 2 % free …", "value": {…}}, …}}

``checked`` is when the check began, and ``since`` when the state last changed. ``worse`` lists the checks whose own
state is worse than in the previous result. Only the standard library.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from celery_fleet.common import json_file

STATE = Path("/var/lib/celery-fleet/health")
#: Has a result that can't be written to `STATE`. By it the next check knows which state has been reported.
UNWRITTEN = Path("/run/celery-fleet")
FORMAT = 1

GOOD, WARNING, BAD = "good", "warning", "bad"
#: The state of a host that was never checked.
UNKNOWN = "unknown"
_ORDER = (GOOD, WARNING, BAD)

#: A result that is older than this many intervals is stale.
INTERVALS = 2


@dataclass(frozen=True)
class Finding:
    """The result of one check: ``text`` is one line for people, ``value`` is plain data for programs."""

    state: str
    text: str
    value: Any = None


def worst(states: Iterable[str]) -> str:
    """Return the worst of some states; good if there are none."""
    return max(states, key=_ORDER.index, default=GOOD)


def check_state(result: Mapping[str, Any], check: str) -> str:
    """Return a check's state in a result; unknown if that lacks the check."""
    return str((result.get("checks", {}).get(check) or {}).get("state", UNKNOWN))


def _is_worse(state: str, was: str) -> bool:
    """Return whether a check got worse. One that the previous result lacks counts as good before."""
    known = was if was in _ORDER else GOOD
    return worst((known, state)) != known


def moment(now: datetime | None = None) -> str:
    """Return a time as results have it; now by default."""
    return (now or datetime.now(UTC)).isoformat(timespec="milliseconds")


def path_of(app: str, directory: Path | None = None) -> Path:
    """Return the path of an application's result."""
    return (directory or STATE) / f"{app}.json"


def unwritten_of(app: str) -> Path:
    """Return the path of a result that could not be written; it only exists after that."""
    return UNWRITTEN / f"{app}.health.json"


def current_of(app: str) -> Path:
    """Return the path of the last result, even if that could not be written to its usual place, as far as root sees."""
    unwritten = unwritten_of(app)
    # `Path.exists` raises an error for users who may not look into the directory.
    return unwritten if os.path.exists(unwritten) else path_of(app)


def read(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not a result that this version understands.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"is not a result of format {FORMAT}")
    if found.get("state") not in _ORDER or not isinstance(found.get("checks"), dict):
        raise ValueError("has no state")
    datetime.fromisoformat(str(found.get("checked")))
    return found


def before(path: Path) -> dict[str, Any]:
    """Return the previous result; empty if there is none that can be read."""
    try:
        return read(path)
    except (OSError, ValueError):
        return {}


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Replace the previous result, whole or not at all."""
    content = f"{json.dumps(result, indent=2)}\n".encode()
    # The application reads the file.
    put = partial(json_file.replace_bytes, path, content, 0o644)
    try:
        put()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Removing the previous result makes room. If that is not enough, no result is better than an old one.
        path.unlink(missing_ok=True)
        put()


def age(result: Mapping[str, Any], now: datetime | None = None) -> float:
    """Return the seconds since the check began; never less than 0."""
    checked = datetime.fromisoformat(str(result["checked"]))
    return max(0.0, ((now or datetime.now(UTC)) - checked).total_seconds())


def stale(result: Mapping[str, Any], seconds: float) -> bool:
    """Return whether a result of this age, in seconds, is too old to rely on."""
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
    """Build a result from the findings of the checks.

    Args:
        app: Name of the application.
        host: Name of the host.
        interval: Seconds between two checks.
        findings: What each check has found, by its name.
        last: The previous result; empty if there was none.
        checked: When the check began, as `moment` writes it.
        seconds: How long the check took.
        invocation: systemd's ID of this run of the unit.
    """
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
        "worse": [
            name
            for name, found in findings.items()
            if _is_worse(found.state, check_state(last, name))
        ],
        "checks": {
            name: {"state": found.state, "text": found.text, "value": found.value}
            for name, found in findings.items()
        },
    }
