"""Plural forms for messages."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 worker``, ``3 workers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
