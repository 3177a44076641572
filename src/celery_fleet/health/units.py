"""Ask systemd about units, and say what their states mean. Only the standard library."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from celery_fleet.common import systemctl
from celery_fleet.health.result import BAD, GOOD, WARNING

_PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "StatusText", "NRestarts"),
    *("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
)
#: If systemd has restarted a unit more often than this, it is in a crash loop and not about to come up.
RESTARTS_TOLERATED = 2


@dataclass(frozen=True)
class MonitoredUnit:
    """One unit. ``began`` and ``up``: when it was started and when it came up, by the host's monotonic clock."""

    name: str
    load: str
    active: str
    status: str = ""
    restarts: int = 0
    began: float = 0.0
    up: float = 0.0

    @property
    def runs(self) -> bool:
        """Whether it is up."""
        return self.active in ("active", "reloading")


Ask = Callable[[Sequence[str]], Mapping[str, MonitoredUnit]]


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def show(names: Sequence[str]) -> dict[str, MonitoredUnit]:
    """Ask systemd for the state of some units; the result is by name.

    Raises:
        OSError: systemd can't be asked.
    """
    return {
        fields["Id"]: MonitoredUnit(
            name=fields["Id"],
            load=fields.get("LoadState", ""),
            active=fields.get("ActiveState", "unknown"),
            status=fields.get("StatusText", ""),
            restarts=_number(fields.get("NRestarts", "")),
            began=_number(fields.get("InactiveExitTimestampMonotonic", "")) / 1e6,
            up=_number(fields.get("ActiveEnterTimestampMonotonic", "")) / 1e6,
        )
        for fields in systemctl.properties(names, _PROPERTIES, timeout=8)
    }


def state_of(
    unit: MonitoredUnit | None,
    name: str,
    patience: Mapping[str, float | None],
    now: float | None = None,
) -> tuple[str, str]:
    """Return the state of a unit that should be up, and a text if it is not up.

    Args:
        unit: What systemd says about it; None if it does not know the unit.
        name: Name of the unit.
        patience: Seconds of a start after which it is `warning` or `bad`; None is never.
        now: The time by the host's monotonic clock.
    """
    short = name.removesuffix(".service")
    if unit is None or unit.load == "not-found":
        return BAD, f"{short} is missing; run site.yml"
    said = f" ({unit.status})" if unit.status else ""
    if unit.runs:
        return GOOD, ""
    if unit.active == "deactivating":
        # A worker drains for as long as its tasks may run, and a person or a deploy has stopped it.
        return WARNING, f"{short} is stopping{said}"
    if unit.active != "activating":
        return BAD, f"{short} is {unit.active}"
    if unit.restarts > RESTARTS_TOLERATED:
        return BAD, f"{short} keeps crashing: restarted {unit.restarts} times{said}"
    seconds = max(0.0, (time.monotonic() if now is None else now) - unit.began)
    limit = patience.get("bad")
    state = BAD if limit is not None and seconds >= limit else WARNING
    limit = patience.get("warning")
    if state == WARNING and (limit is None or seconds < limit):
        state = GOOD
    return state, f"{short} has been starting for {seconds:.0f} s{said}"
