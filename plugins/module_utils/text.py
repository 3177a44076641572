"""Numbers and shortened texts for messages."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 worker``, ``3 workers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shortened(text: str, longest: int) -> str:
    """Return a text of at most this length, which ends with an ellipsis if it was longer."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
