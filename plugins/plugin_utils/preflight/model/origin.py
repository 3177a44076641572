"""Finds the places of values in the user's files, if Ansible knows them.

ansible-core 2.19 tags each value that it reads from YAML with its path and line. Only a private function reads the
tag, and only this file uses it. Without that function or a tag, no place is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from .inventory import dotted

try:
    from ansible._internal._datatag._tags import Origin as _Origin
except ImportError:  # another version of ansible-core
    _Origin = None  # type: ignore[assignment,misc]  # the functions below check for None

Locate = Callable[[object], "tuple[str, int] | None"]
# Ends of files whose values have types, and directories of files that need no end to be YAML.
_TYPED: Final = (".yml", ".yaml", ".json", ".toml")
_VARIABLES: Final = {"group_vars", "host_vars"}
_NAME: Final = re.compile(r"[.\[]")
_DEEPEST: Final = 30


def located(value: object) -> tuple[str, int] | None:
    """Return the path and line from which Ansible read a value."""
    spot = exactly(value)
    return spot[:2] if spot else None


def exactly(value: object) -> tuple[str, int, int] | None:
    """Return path, line and column of a value, counted from 1; the column is 0 if Ansible names none."""
    if _Origin is None:
        return None
    try:
        tag = _Origin.get_tag(value)
    except (AttributeError, TypeError):
        return None
    path, line = getattr(tag, "path", None), getattr(tag, "line_num", None)
    if not isinstance(path, str) or not isinstance(line, int) or line < 1:
        return None
    return path, line, getattr(tag, "col_num", None) or 0


def is_ini(value: object) -> bool:
    """Return whether Ansible read a value from an inventory in INI."""
    place = located(value)
    path = Path(place[0] if place else "")
    return place is not None and path.suffix not in _TYPED and not _VARIABLES & {*path.parts}


def find(
    variables: Mapping[str, object], variable: str, locate: Locate = located
) -> tuple[str, int] | None:
    """Return path and line of the value that a problem names, or of the nearest value around it.

    Args:
        variables: The variables of one host, as Ansible read them.
        variable: A path, as `inventory.dotted` writes it.
        locate: A function that returns the place of a single value.
    """
    name = _NAME.split(variable, maxsplit=1)[0]
    # The key as Ansible read it, which has its own tag.
    found = [
        place
        for key, value in variables.items()
        if key == name
        for place in _way((name,), key, value, variable, locate, 0)
    ]
    return found[-1] if found else None


def _way(
    path: tuple[object, ...],
    key: object,
    value: object,
    variable: str,
    locate: Locate,
    depth: int,
) -> Iterator[tuple[str, int]]:
    """Yield the places on the way down to a value, the nearest last. A key's place comes before its value's."""
    place, inside = locate(key), locate(value)
    # Ansible keeps the first file's key of a variable that a second file, or the command line, overrides.
    if place is None or (inside is not None and inside[0] != place[0]):
        place = inside
    elif inside is None and isinstance(value, (Mapping, list, str)):
        # Ansible tags all of these that it reads from a file.
        return
    if place is not None:
        yield place
    if depth >= _DEEPEST:
        return
    if isinstance(value, Mapping):
        items: Iterator[tuple[object, object]] = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    else:
        return
    for inner, item in items:
        # A plain string: `dotted` would also print the tags of Ansible's own type.
        below = (*path, str.__str__(inner) if isinstance(inner, str) else inner)
        if _leads(below, variable):
            yield from _way(below, inner, item, variable, locate, depth + 1)


def _leads(path: tuple[object, ...], variable: str) -> bool:
    """Return whether a path is the variable's path or a part of it."""
    text = dotted(path)
    return variable == text or variable.startswith((f"{text}.", f"{text}["))


def shown(place: tuple[str, int], base: Path) -> str:
    """Return `path:line`, with a path relative to `base` if the file is below it."""
    path, line = place
    try:
        return f"{Path(path).relative_to(base)}:{line}"
    except ValueError:
        return f"{path}:{line}"
