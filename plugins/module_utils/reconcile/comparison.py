"""Compares the recorded inputs of a running process with its current ones, and describes the differences.

Runs on the host, inside modules. `fingerprint` writes the record and computes what the process would get now.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from ..text import shortened
from .fingerprint import ABSENT, FORMAT, NEVER, RECORDS, read_object

# In the order in which they are shown.
_KINDS = (
    "unit",
    "drop-in",
    "runtime",
    "environment",
    "settings",
    "setting",
    "user",
    "file",
    "link",
    "release",
)


def started_with(
    unit: str, invocation: str, directory: str = RECORDS
) -> tuple[dict[str, str] | None, str]:
    """Return what a unit's running process was started with; if that is unknown, None and the reason."""
    record = read_object(f"{directory}/{unit}.json")
    if not record or not invocation or record.get("invocation") != invocation:
        return None, "no record of its start"
    found = record.get("inputs")
    if record.get("format") != FORMAT or not isinstance(found, dict):
        return None, str(record.get("unknown") or "its record has another format")
    return {str(label): str(value) for label, value in found.items()}, ""


def compare(known: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return the differences that a process has to pick up, as text; an empty list if there are none."""
    known = _as_labelled_now(known, wanted)
    shown: list[str] = []
    grouped: dict[tuple[str, str], list[str]] = {}
    for label in sorted(known.keys() | wanted.keys(), key=_order):
        before, after = known.get(label), wanted.get(label)
        if before == after and after != NEVER:
            continue
        kind, _, name = label.partition(" ")
        if before is not None and after is not None and _readable(kind, before, after):
            shown.append(f"{label} {_short(before)} → {_short(after)}")
            continue
        how = (
            "removed"
            if after in (None, ABSENT)
            else "new"
            if before in (None, ABSENT)
            else "changed"
        )
        grouped.setdefault((kind, how), []).append(name)
    shown += [f"{kind} {_listed(names)}{how}" for (kind, how), names in grouped.items()]
    return sorted(shown, key=_order)


def _as_labelled_now(known: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the recorded inputs under their current labels.

    A file's label includes its path only while another file has the same name, for example one of another application
    on the host. Its value does not depend on that.
    """
    result = dict(known)
    for label in sorted(wanted.keys() - known.keys()):
        for old in sorted(result.keys() - wanted.keys()):
            if _name(old) == _name(label) and result[old] == wanted[label]:
                result[label] = result.pop(old)
                break
    return result


def _name(label: str) -> tuple[str, str]:
    kind, _, name = label.partition(" ")
    return kind, os.path.basename(name)


def _order(label: str) -> tuple[int, str]:
    kind = label.partition(" ")[0]
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), label)


def _readable(kind: str, before: str, after: str) -> bool:
    return (
        kind in ("release", "link", "runtime", "setting")
        and not {before, after} & {ABSENT, NEVER}
        and not all(re.fullmatch(r"[0-9a-f]{64}", value) for value in (before, after))
    )


def _short(text: str) -> str:
    return shortened(text, 60) or '""'


def _listed(names: Sequence[str], most: int = 4) -> str:
    names = [name for name in names if name]
    if not names:
        return ""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more "
    return f"{', '.join(names)} "
