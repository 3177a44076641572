"""Defines the spelling of names in options, and finds the nearest one to a misspelt name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST: Final = re.compile(rf"{LABEL}(\.{LABEL})*")
# Names that the inventory, its groups or Ansible itself use.
TAKEN: Final = frozenset(
    {
        *("all", "fleet", "group_vars", "host_vars", "localhost", "pki", "postgresql", "ungrouped"),
        *("celery_beat", "celery_producers", "celery_workers", "flower", "redis"),
    }
)


def near(word: str, words: Sequence[str]) -> str:
    """Return a remedy for a word that is not one of these: the nearest one, or all of them."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(words) or '(none)'}"
