"""Keep a program's answer on standard output apart from anything that the application prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def own_output() -> Iterator[TextIO]:
    """Yield the original standard output for the answer; everything else that is printed goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(kept, "w", encoding="utf-8") as output:
        yield output
    sys.stdout.flush()
    sys.stderr.flush()
