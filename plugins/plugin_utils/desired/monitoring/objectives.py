"""Reads a worker's service level objectives from its option `slo`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# Upper bounds of the buckets in which workers count waits, in seconds. Another wait can't be measured.
BUCKETS: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
# Percent that may go wrong. With more, the fastest alert, for 14.4 times as much, could never fire.
LEAST: Final = 0.01
MOST: Final = 6.0
# Percent of tasks that keep to the wait, unless the inventory says otherwise.
OBJECTIVE: Final = "99%"

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?(ms|s|m|h)")
_PERCENTAGE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?) ?%")


class Objective(NamedTuple):
    """One SLO of a worker.

    Attributes:
        kind: `wait` or `failures`.
        budget: Share of tasks that may go wrong, from 0 to 1.
        seconds: The longest good wait; 0 for failures.
        words: The SLO for people.
    """

    kind: str
    budget: float
    seconds: float
    words: str


def seconds(text: str) -> float | None:
    """Return the seconds of a duration such as `30s`; None for any other text."""
    found = _DURATION.fullmatch(text)
    return round(float(found[1]) * _UNITS[found[2]], 3) if found else None


def percent(text: str) -> float | None:
    """Return the number of a percentage such as `1%`; None for any other text."""
    found = _PERCENTAGE.fullmatch(text)
    return float(found[1]) if found else None


def duration(value: float) -> str:
    """Return seconds as the inventory writes them, in the largest unit without a fraction."""
    unit = max(
        (size, name)
        for name, size in _UNITS.items()
        if not round(value * 1000) % round(size * 1000)
    )
    return f"{round(value / unit[0])}{unit[1]}"


def objectives(slo: Mapping[str, Any]) -> list[Objective]:
    """Return the SLOs of the option `slo`.

    Raises:
        ValueError: Preflight would refuse it.
    """
    found = []
    if slo.get("wait"):
        wait, share = seconds(str(slo["wait"])), percent(str(slo.get("objective") or OBJECTIVE))
        if wait not in BUCKETS or share is None:
            raise ValueError(f"slo can't be measured: {dict(slo)}")
        words = f"{share:g} % start within {duration(wait)}"
        found.append(Objective("wait", round(1 - share / 100, 8), wait, words))
    if slo.get("failures"):
        share = percent(str(slo["failures"]))
        if share is None:
            raise ValueError(f"slo can't be measured: {dict(slo)}")
        found.append(Objective("failures", share / 100, 0.0, f"at most {share:g} % fail"))
    return found
