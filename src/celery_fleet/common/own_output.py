"""The output of a program that loads an application: its answer alone, whatever the application prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def own_output() -> Iterator[TextIO]:
    """What was standard output, for the answer; from now on all else that is printed goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(kept, "w", encoding="utf-8") as output:
        yield output
    sys.stdout.flush()
    sys.stderr.flush()
