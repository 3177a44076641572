"""systemd's view of an application's units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from celery_fleet.cli.errors import CommandError
from celery_fleet.common import systemctl

_PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "StatusText"),
    *("StateChangeTimestamp", "NRestarts"),
    *("Job", "InvocationID", "TimeoutStartUSec", "TimeoutStopUSec"),
)

#: The units of a time span as systemctl prints it, in seconds.
_SPANS = {"w": 604800, "d": 86400, "h": 3600, "min": 60, "s": 1, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class UnitStatus:
    """One unit.

    Attributes:
        since: When it entered its present state, in UTC.
        job: Whether systemd has a job for it that is not finished.
        invocation: Identifies its current run.
        start_limit: Seconds that its start may take; None without a limit.
        stop_limit: The same for its stop.
    """

    name: str
    active: str
    sub: str
    status: str
    since: datetime | None
    restarts: int | None
    job: bool = False
    invocation: str = ""
    start_limit: float | None = None
    stop_limit: float | None = None

    @property
    def ok(self) -> bool:
        """Return whether it is active."""
        return self.active == "active"

    def as_dict(self) -> dict[str, Any]:
        """Return its form in JSON."""
        shown = asdict(self)
        for name in ("job", "invocation", "start_limit", "stop_limit"):
            del shown[name]
        since = self.since.isoformat(timespec="seconds") if self.since else None
        return {**shown, "since": since, "ok": self.ok}


def status_of(fields: Mapping[str, str]) -> UnitStatus:
    """Return a unit's status, from the properties that `systemctl show --timestamp=unix` prints."""
    missing = fields.get("LoadState") == "not-found"
    restarts = fields.get("NRestarts", "")
    return UnitStatus(
        name=fields["Id"],
        active="missing" if missing else fields.get("ActiveState", "unknown"),
        sub="" if missing else fields.get("SubState", ""),
        status=fields.get("StatusText", ""),
        since=_moment(fields.get("StateChangeTimestamp", "")),
        restarts=int(restarts) if restarts.isdigit() else None,
        job=fields.get("Job", "0") not in ("", "0"),
        invocation=fields.get("InvocationID", ""),
        start_limit=span(fields.get("TimeoutStartUSec", "")),
        stop_limit=span(fields.get("TimeoutStopUSec", "")),
    )


def span(text: str) -> float | None:
    """Return the seconds of a time span such as `1min 30s`; None for `infinity` or an empty text."""
    parts = re.findall(r"([0-9.]+)(w|d|h|min|ms|us|s)\b", text)
    return sum(float(number) * _SPANS[unit] for number, unit in parts) if parts else None


def _moment(text: str) -> datetime | None:
    digits = text.removeprefix("@")
    return datetime.fromtimestamp(int(digits), UTC) if digits.isdigit() and int(digits) else None


def show(names: Sequence[str]) -> list[UnitStatus]:
    """Return the state of some units.

    Raises:
        CommandError: systemd can't be asked.
    """
    try:
        found = systemctl.properties(names, _PROPERTIES, 5, "--timestamp=unix")
    except OSError as error:
        raise CommandError(str(error)) from None
    return [status_of(fields) for fields in found]
