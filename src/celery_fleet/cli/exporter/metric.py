"""What the table of all metrics says about one of them; standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric: its name, type, labels, and its meaning in one line."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Source:
    """Where metrics come from, and what that costs; `parts` are values of the label of that name."""

    title: str
    parts: tuple[str, ...]
    text: str
    cost: str
    metrics: tuple[Metric, ...]
