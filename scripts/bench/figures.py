"""Format measurements as Markdown: medians, ratios with their goals, profiles."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROFILE_LINES = 15


@dataclass(frozen=True)
class Ratio:
    """The cost of one thing as a multiple of another's, and the goal for it."""

    what: str
    value: float
    goal: float

    @property
    def is_met(self) -> bool:
        """Return whether the goal is reached."""
        return self.value <= self.goal

    def __str__(self) -> str:
        verdict = "met" if self.is_met else "**missed**"
        return f"{self.what}: {self.value:.2f} (goal: {self.goal:g} at most, {verdict})"


def report(
    found: Mapping[str, Sequence[float]], ratios: Sequence[Ratio], notes: Sequence[str]
) -> str:
    """Return the results as Markdown."""
    lines = ["| what | median | least to most |", "|---|---|---|"]
    lines += [
        f"| {name} | {statistics.median(values):.1f} s | {min(values):.1f} to {max(values):.1f} s |"
        for name, values in found.items()
    ]
    lines += ["", *(f"- {item}" for item in (*ratios, *notes))]
    return "\n".join(lines)


def profile_text(tasks: Sequence[tuple[str, float]]) -> str:
    """Return a profile as Markdown."""
    lines = ["| task | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in tasks[:PROFILE_LINES]]
    return "\n".join(lines)


def ratio(
    what: str, found: Mapping[str, Sequence[float]], upper: str, lower: str, goal: float
) -> Ratio:
    """Return the ratio of two medians."""
    value = statistics.median(found[upper]) / statistics.median(found[lower])
    return Ratio(what, value, goal)
