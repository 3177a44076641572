"""How figures are judged: by ratios within a round, and their median."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A bound: at least or at most ``bound``."""

    bound: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value keeps it."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.bound:g} at {'least' if self.at_least else 'most'}"


@dataclass(frozen=True)
class Row:
    """One line of a table: a figure of stock's, the same of the atomic take, and what is judged of them.

    ``judged`` are the values of which the median counts: the ratios of the rounds, or the figure itself.
    """

    what: str
    stock: str
    atomic: str
    judged: Sequence[float]
    goal: Goal | None = None

    @property
    def value(self) -> float:
        """What is compared with the goal: the median, as exact as it is shown."""
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


def table(rows: Sequence[Row], judged: str) -> str:
    """Markdown; ``judged`` says what the fourth column is."""
    head = [f"| what | stock take | atomic take | {judged} | goal |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(str, rows)])


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(upper, lower, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many percent of them don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(values: Sequence[float], unit: str = "", digits: int = 0) -> str:
    """As a cell has it."""
    return f"{statistics.median(values):.{digits}f}{unit}"
