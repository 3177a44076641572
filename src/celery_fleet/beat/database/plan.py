"""Plan the synchronisation of the schedule with the database, in pure functions.

They compare three things: the entries that the inventory and the code declare, the entries in the database, and the
marks, which record what we wrote. Only a mark makes an entry ours, and it names the entry's row. An entry that a user
made has no mark, even if it has the name of a declared one.

The content of an entry is a dictionary of plain JSON with :data:`FIELDS`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What to do with a declared entry that a user has edited.
KEEP, RESET = "keep", "reset"

#: The state of an entry: as declared; edited, disabled or deleted by a user; made by a user; made by a user with the
#: name of a declared one; declared and not written yet; no longer declared; left out, as the release lacks its task.
DECLARED, EDITED, DISABLED, DELETED = "declared", "edited", "disabled", "deleted"
USERS, TAKEN, NEW, LEFT = "user's", "taken", "not written yet", "no longer declared"
LEFT_OUT = "not in this release"

#: What to do with an entry. `MARK` only writes its mark, `FORGET` only removes its mark.
ADD, CHANGE, REMOVE, MARK, FORGET, NOTHING = "add", "change", "remove", "mark", "forget", ""

#: Fields of an entry's content, in the order in which differences are shown.
FIELDS = (
    "name",
    "enabled",
    "task",
    "schedule",
    "queue",
    "args",
    "kwargs",
    "exchange",
    "routing_key",
    "priority",
    "headers",
    "expire_seconds",
    "expires",
    "start_time",
    "one_off",
)

#: Fields that are never shown, because their values may be secret.
_HIDDEN = frozenset({"args", "kwargs", "headers"})

_VARIES = "differs in each process"

#: The values of fields that a declared entry does not set.
DEFAULTS: Mapping[str, Any] = {
    "enabled": True,
    "queue": None,
    "args": [],
    "kwargs": {},
    "exchange": None,
    "routing_key": None,
    "priority": None,
    "headers": {},
    "expire_seconds": None,
    "expires": None,
    "start_time": None,
    "one_off": False,
}

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """An entry in the database; its name is part of the content."""

    key: int
    content: Content

    @property
    def name(self) -> str:
        """Return its current name, which a user may have changed."""
        return str(self.content["name"])


@dataclass(frozen=True)
class Mark:
    """Records what we wrote: the declared name, the row and its content. If the row is gone, a user deleted it."""

    name: str
    key: int
    written: Content


@dataclass(frozen=True)
class PlannedEntry:
    """The state of one entry and what to do with it.

    Attributes:
        name: The declared name, or the name of a user's entry.
        state: Its state, such as `DECLARED`.
        action: What to do, such as `CHANGE`.
        row: Its row; None if there is none.
        wanted: The declared content; None if it is not declared.
        edited: Fields that a user changed after we wrote them.
        differing: Fields that differ from what is declared.
    """

    name: str
    state: str
    action: str = NOTHING
    row: Row | None = None
    wanted: Content | None = None
    edited: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    @property
    def touches(self) -> bool:
        """Return whether it concerns the entry itself, and not only its mark."""
        return self.action in (ADD, CHANGE, REMOVE)


def differing(one: Content, other: Content) -> tuple[str, ...]:
    """Return the fields of ``one`` that differ in ``other``."""
    # Compare as JSON, because in Python 1 equals True.
    return tuple(
        field for field in FIELDS if field in one and _json(one[field]) != _json(other.get(field))
    )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def steps(
    declared: Mapping[str, Content],
    rows: Iterable[Row],
    marks: Iterable[Mark],
    edited: str = KEEP,
    reset: Sequence[str] = (),
    left_out: Collection[str] = (),
) -> list[PlannedEntry]:
    """Return the state of every entry and what to do, in the order of declaration; users' entries come last.

    Args:
        declared: The declared contents by name.
        rows: All entries of the database.
        marks: All marks.
        edited: `KEEP` or `RESET`, for entries that a user edited.
        reset: Names of entries to reset in any case.
        left_out: Names of entries that stay as they are: a later release will have their tasks again.
    """
    by_key = {row.key: row for row in rows}
    by_name = {row.name: row for row in by_key.values()}
    ours = {mark.name: mark for mark in marks}
    found: list[PlannedEntry] = []
    for name, wanted in declared.items():
        again = edited == RESET or name in reset
        found.append(_declared(name, wanted, ours.get(name), by_key, by_name, again=again))
    for name, mark in ours.items():
        if name in left_out:
            found.append(PlannedEntry(name, LEFT_OUT, row=by_key.get(mark.key)))
        elif name not in declared:
            found.append(_left(mark, by_key.get(mark.key)))
    known = {step.row.key for step in found if step.row is not None}
    found += [
        PlannedEntry(row.name, USERS, row=row) for row in by_key.values() if row.key not in known
    ]
    return found


def _declared(
    name: str,
    wanted: Content,
    mark: Mark | None,
    by_key: Mapping[int, Row],
    by_name: Mapping[str, Row],
    *,
    again: bool,
) -> PlannedEntry:
    row = by_key.get(mark.key) if mark is not None else None
    holder = by_name.get(name)
    if holder is not None and (row is None or holder.key != row.key):
        # If a user renamed our entry and made another one with its name, leave both as they are.
        return PlannedEntry(name, TAKEN, NOTHING if mark is None else FORGET, holder, wanted)
    if mark is None:
        return PlannedEntry(name, NEW, ADD, None, wanted)
    if row is None:
        if again:
            return PlannedEntry(name, DELETED, ADD, None, wanted)
        return PlannedEntry(name, DELETED, NOTHING, None, wanted)
    changes = differing(wanted, row.content)
    if not changes:
        same = differing(wanted, mark.written) == ()
        return PlannedEntry(name, DECLARED, NOTHING if same else MARK, row, wanted)
    own = differing(mark.written, row.content)
    if not own:
        return PlannedEntry(name, DECLARED, CHANGE, row, wanted, (), changes)
    state = DISABLED if own == ("enabled",) and not row.content["enabled"] else EDITED
    return PlannedEntry(name, state, CHANGE if again else NOTHING, row, wanted, own, changes)


def _left(mark: Mark, row: Row | None) -> PlannedEntry:
    if row is None or row.name != mark.name:
        # A user has deleted it, or has renamed it and so made it a user's entry.
        return PlannedEntry(mark.name, LEFT, FORGET)
    return PlannedEntry(mark.name, LEFT, REMOVE, row, None, differing(mark.written, row.content))


# --- for people ---


def item(step: PlannedEntry, varying: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plan's line for a step with an action.

    Args:
        step: The step.
        varying: Fields that the code computes differently in each process, so the plan can't know their values.
    """
    why: list[str] = []
    if step.action == ADD:
        content = step.wanted or {}
        time = shown("schedule", content.get("schedule"))
        time = f"its schedule {_VARIES}" if "schedule" in varying else time
        why = [f"{content.get('task')}, {time}"]
        if step.state == DELETED:
            why.append("a user deleted it")
    elif step.action == CHANGE:
        why = _differences(step, varying=varying)
        if step.edited:
            why.append(f"a user edited it ({', '.join(step.edited)})")
    elif step.action == REMOVE:
        why = ["no longer declared"]
        if step.edited:
            why.append(f"a user had edited it ({', '.join(step.edited)})")
    elif step.action == MARK:
        why = ["a user had already changed it to this"]
    elif step.action == FORGET:
        why = ["a user has deleted or renamed it"]
    return {"entry": step.name, "action": step.action, "why": why}


def varies(name: str, fields: Sequence[str]) -> str:
    """Return a note about an entry for which the code computes different values in each process."""
    return (
        f"schedule entry {name}: the code gives it another {' and '.join(fields)} in each process, for example with"
        " hash() of a string, so each run changes it. Compute it with zlib.crc32(), or, if it uses hash(), set"
        ' PYTHONHASHSEED: "0" in celery_app_env.'
    )


def note(step: PlannedEntry) -> str:
    """Return a note about a declared entry that is left as it is; empty if there is nothing to say."""
    if step.touches:
        return ""
    if step.state == TAKEN:
        return (
            f"schedule entry {step.name} is not written: a user's entry has this name. Rename or delete the user's"
            " entry, or rename the declared one."
        )
    if step.state == DELETED:
        return f"schedule entry {step.name} was deleted by a user and stays deleted."
    if step.state in (EDITED, DISABLED):
        return (
            f"schedule entry {step.name} was {step.state} by a user and stays so: declared is"
            f" {'; '.join(_differences(step, declared=True))}."
        )
    return ""


def _differences(
    step: PlannedEntry, *, declared: bool = False, varying: Sequence[str] = ()
) -> list[str]:
    wanted, have = step.wanted or {}, step.row.content if step.row else {}
    texts = []
    for field in step.differing:
        if field in varying:
            texts.append(f"{field} {_VARIES}")
        elif field in _HIDDEN:
            texts.append(f"other {field}" if declared else field)
        elif declared:
            texts.append(
                f"{field} {shown(field, wanted[field])}, not {shown(field, have.get(field))}"
            )
        else:
            texts.append(f"{field} {shown(field, have.get(field))} → {shown(field, wanted[field])}")
    return texts


def shown(field: str, value: Any) -> str:
    """Return a value in the form in which a person would write it."""
    if field != "schedule":
        return json.dumps(value) if isinstance(value, (bool, dict, list)) else str(value or "none")
    schedule = value or {}
    if "crontab" in schedule:
        fields = schedule["crontab"]
        order = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        return f"crontab {' '.join(fields[name] for name in order)} {fields['timezone']}"
    if "interval" in schedule:
        return f"every {schedule['interval'] / 1e6:g} s"
    if "solar" in schedule:
        sun = schedule["solar"]
        return f"{sun['event']} at {sun['latitude']:g}, {sun['longitude']:g}"
    if "clocked" in schedule:
        return f"once at {schedule['clocked']}"
    return "no time"
