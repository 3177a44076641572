"""Returns the text of single values in YAML files, before YAML turns it into numbers, booleans and dates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from . import origin

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def text_of(key: object) -> str | None:
    """Return the unquoted text behind a key of a mapping.

    Args:
        key: As Ansible read it, with its place.

    Returns:
        None for a quoted text, and if the place is unknown or is not in a YAML file that can be read.
    """
    spot = origin.exactly(key)
    if spot is None:
        return None
    path, *place = spot
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError:
        return None
    return _texts(path, changed).get(tuple(place))


@lru_cache(maxsize=64)
def _texts(path: str, _changed: int) -> Mapping[tuple[int, ...], str]:
    """Return all unquoted values in a file, by line and column of their keys."""
    try:
        pending: list[Any] = [yaml.compose(Path(path).read_text(encoding="utf-8"), _Loader)]
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    found: dict[tuple[int, ...], str] = {}
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(value, yaml.ScalarNode) and not value.style:
                    found[key.start_mark.line + 1, key.start_mark.column + 1] = value.value
                pending.append(value)
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
    return found
