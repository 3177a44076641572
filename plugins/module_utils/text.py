"""Words for a person."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """``1 worker``, ``3 workers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
