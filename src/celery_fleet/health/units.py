"""What systemd says of units, as the check of health judges it; standard library alone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from celery_fleet.health.result import BAD, GOOD, WARNING

SYSTEMCTL = "/usr/bin/systemctl"
_PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "StatusText", "NRestarts"),
    *("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
)
#: After this many starts of systemd's own a unit is in a loop of crashes, not about to come up.
RESTARTS_TOLERATED = 2


@dataclass(frozen=True)
class Unit:
    """One unit; ``began`` and ``up`` are when it was started and when it came up, by the host's monotonic clock."""

    name: str
    load: str
    active: str
    sub: str
    status: str = ""
    restarts: int = 0
    began: float = 0.0
    up: float = 0.0

    @property
    def short(self) -> str:
        """What people call it."""
        return self.name.removesuffix(".service")


Ask = Callable[[Sequence[str]], Mapping[str, Unit]]


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def parse(text: str) -> dict[str, Unit]:
    """What `systemctl show` printed."""
    found = {}
    for block in text.strip().split("\n\n"):
        fields = dict(line.partition("=")[::2] for line in block.splitlines())
        if "Id" not in fields:
            continue
        found[fields["Id"]] = Unit(
            name=fields["Id"],
            load=fields.get("LoadState", ""),
            active=fields.get("ActiveState", "unknown"),
            sub=fields.get("SubState", ""),
            status=fields.get("StatusText", ""),
            restarts=_number(fields.get("NRestarts", "")),
            began=_number(fields.get("InactiveExitTimestampMonotonic", "")) / 1e6,
            up=_number(fields.get("ActiveEnterTimestampMonotonic", "")) / 1e6,
        )
    return found


def show(names: Sequence[str]) -> dict[str, Unit]:
    """The state of some units.

    Raises:
        OSError: systemd can't be asked.
    """
    if not names:
        return {}
    command = [SYSTEMCTL, "show", f"--property={','.join(_PROPERTIES)}", *names]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=8,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError("systemd gave no answer within 8 s") from None
    if done.returncode != 0:
        raise OSError(f"systemd can't be asked: {done.stderr.strip() or done.returncode}")
    return parse(done.stdout)


def judge(
    unit: Unit | None, name: str, patience: Mapping[str, float | None], now: float | None = None
) -> tuple[str, str]:
    """State of a unit that should be up, and a few words where it is not.

    Args:
        unit: What systemd says of it.
        name: Of the unit.
        patience: Seconds that a start may take, for `warning` and `bad`; nothing is no bound.
        now: By the host's monotonic clock.
    """
    short = name.removesuffix(".service")
    if unit is None or unit.load == "not-found":
        return BAD, f"{short} is not there; run site.yml"
    said = f" ({unit.status})" if unit.status else ""
    if unit.active in ("active", "reloading"):
        return GOOD, ""
    if unit.active == "deactivating":
        # A worker drains as long as its tasks may run; whoever stopped it knows.
        return WARNING, f"{short} stops{said}"
    if unit.active != "activating":
        return BAD, f"{short} is {unit.active}"
    if unit.restarts > RESTARTS_TOLERATED:
        return BAD, f"{short} does not stay up: restarted {unit.restarts} times{said}"
    seconds = max(0.0, (time.monotonic() if now is None else now) - unit.began)
    limit = patience.get("bad")
    state = BAD if limit is not None and seconds >= limit else WARNING
    limit = patience.get("warning")
    if state == WARNING and (limit is None or seconds < limit):
        state = GOOD
    return state, f"{short} has been starting for {seconds:.0f} s{said}"
