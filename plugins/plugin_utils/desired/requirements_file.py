"""Reads requirements files line by line, as pip does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Locks that the tool which wrote them can export as such a file; see `run/lock_files.py`.
LOCKS: Final = ("uv.lock", "poetry.lock", "pdm.lock")

#: A project that pip installs as a package, with its dependencies.
PROJECT: Final = "pyproject.toml"

# `-r other.txt`, `--constraint=limits.txt` and so on.
_INCLUDE: Final = re.compile(r"(-r|-c|--requirement(?=[ =])|--constraint(?=[ =]))[ =]*(\S+)")
_COMMENT: Final = re.compile(r"(^|\s)#.*")
_URL: Final = re.compile(r"[a-z+]+://")


#: Its name, unless the inventory gives another one.
NAME: Final = "requirements.txt"


def places(source: Mapping[str, object], root: Path) -> tuple[Path, Path]:
    """Return where the file may be: below `celery_app_source.directory` or below the source's root.

    Args:
        source: celery_app_source.
        root: The source's root.
    """
    directory, name = (
        value if isinstance(value := source.get(key), str) and value else default
        for key, default in (("directory", "."), ("requirements", NAME))
    )
    return root / directory / name, root / name


@dataclass(frozen=True)
class Line:
    """A line of a requirements file, or several that backslashes join.

    Attributes:
        number: Number of the first line.
        text: Its text without comments; blanks are single spaces.
        included: Path of a file that it includes, relative to its own file; empty for other lines and for URLs.
        constrains: Whether the included file only constrains versions.
    """

    number: int
    text: str
    included: str = ""
    constrains: bool = False


def lines(text: str) -> Iterator[Line]:
    """Yield the lines of a file, except blank ones and comments."""
    whole, first = "", 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        first = first if whole else number
        # Like pip, continue no line that is only a comment.
        if line.endswith("\\") and (whole or not line.lstrip().startswith("#")):
            whole += line[:-1]
            continue
        plain = " ".join(_COMMENT.sub("", whole + line).split())
        whole = ""
        if not plain:
            continue
        include = _INCLUDE.match(plain)
        if include is None or _URL.match(include[2]):
            yield Line(first, plain)
        else:
            yield Line(first, plain, include[2].strip("'\""), include[1] in ("-c", "--constraint"))
