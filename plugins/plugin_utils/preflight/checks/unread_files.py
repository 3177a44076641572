"""Warns about files of variables that Ansible silently ignores because of the end of their name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from ..model.inventory import Model, Problem, Severity, as_text
from .groups import SUFFIXES

# Ends of files that are not meant to be read: copies by people and editors, examples and notes.
_EXPECTED: Final = (
    ".bak",
    ".disabled",
    ".dist",
    ".example",
    ".md",
    ".old",
    ".orig",
    ".sample",
    ".save",
    ".swp",
)


def check_unread(model: Model) -> Iterator[Problem]:
    """Warn about each file in group_vars and host_vars that Ansible does not read, for a known group or host."""
    hosts = {host for members in model.groups.values() for host in members}
    for value, _ in model.distinct("inventory_dir"):
        inventory = Path(as_text(value) or "")
        for folder, known in (("group_vars", {*model.groups}), ("host_vars", hosts)):
            for path in _unread(inventory / folder, known) if as_text(value) else ():
                yield Problem(
                    str(path.relative_to(inventory)),
                    "is not read by Ansible because of the end of its name, so it has no effect",
                    f"end its name in .yml, or move it out of {folder}",
                    severity=Severity.WARNING,
                )


def _unread(directory: Path, known: Collection[str]) -> Iterator[Path]:
    """Yield what Ansible does not read of group_vars or host_vars."""
    for path in _entries(directory):
        if path.name in known:
            yield from _below(path)
        elif not path.is_dir() and path.suffix not in ("", *SUFFIXES):
            yield path


def _below(directory: Path) -> Iterator[Path]:
    """Yield what Ansible does not read of a group's or a host's own directory; it also skips directories with a dot."""
    for path in _entries(directory):
        if path.is_dir() and not path.suffix:
            yield from _below(path)
        elif path.is_dir() or path.suffix not in ("", *SUFFIXES):
            yield path


def _entries(directory: Path) -> list[Path]:
    """Return what is in a directory, without what is not meant to be read."""
    try:
        found = sorted(directory.iterdir())
    except OSError:
        return []  # there is none, or it is a file
    return [
        path
        for path in found
        if not path.name.startswith((".", "README"))
        and not path.name.endswith("~")
        and path.suffix not in _EXPECTED
    ]
