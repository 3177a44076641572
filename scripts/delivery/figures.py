"""Judge figures by the median of the ratios within a round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A limit: at least or at most ``bound``."""

    bound: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether a value is within it."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.bound:g} at {'least' if self.at_least else 'most'}"


@dataclass(frozen=True)
class FigureRow:
    """One line of a table: a figure for stock Celery, the same for the atomic fetch, and the values to judge.

    The median of ``judged`` is compared with the goal: the ratios of the rounds, or the figure itself.
    """

    what: str
    stock: str
    atomic: str
    judged: Sequence[float]
    goal: Goal | None = None

    @property
    def value(self) -> float:
        """Return the median that is compared with the goal, rounded as it is shown."""
        return round(statistics.median(self.judged), 2)

    def __str__(self) -> str:
        spread = (
            f" ({min(self.judged):.2f} to {max(self.judged):.2f})" if len(self.judged) > 1 else ""
        )
        verdict = ""
        if self.goal:
            verdict = f"{self.goal}: {'met' if self.goal.is_met(self.value) else '**missed**'}"
        return (
            f"| {self.what} | {self.stock} | {self.atomic} | {self.value:.2f}{spread} | {verdict} |"
        )


def table(rows: Sequence[FigureRow], judged: str) -> str:
    """Return a table in Markdown; ``judged`` is the title of the fourth column."""
    head = [f"| what | stock fetch | atomic fetch | {judged} | goal |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(str, rows)])


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Return the ratios round by round."""
    return [one / other for one, other in zip(upper, lower, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` percent of all values don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(values: Sequence[float], unit: str = "", digits: int = 0) -> str:
    """Return the median as the text of a cell."""
    return f"{statistics.median(values):.{digits}f}{unit}"
