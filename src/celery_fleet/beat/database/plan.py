"""What synchronising the schedule with the database has to do: plain functions over what stands where.

Three things meet: what is declared (by the inventory and the code), the entries in the database, and the marks, by
which we know what we wrote. An entry is ours by its mark alone, which names its row: one that a user made has none,
whatever it is called.

The content of an entry is a dictionary of plain JSON: :data:`FIELDS`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What becomes of a declared entry that a user has edited.
KEEP, RESET = "keep", "reset"

#: Where an entry stands: as declared, edited, disabled or deleted by a user, a user's own, a user's in the place of a
#: declared one, declared and not written yet, no longer declared.
DECLARED, EDITED, DISABLED, DELETED = "declared", "edited", "disabled", "deleted"
USERS, TAKEN, NEW, LEFT = "user's", "taken", "not written yet", "no longer declared"

#: What is to be done with one. `MARK` writes the mark alone, `FORGET` removes it alone.
ADD, CHANGE, REMOVE, MARK, FORGET, NOTHING = "add", "change", "remove", "mark", "forget", ""

#: Fields of an entry's content, in the order in which differences are told.
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

#: Their values may be secret, so they are never shown.
_HIDDEN = frozenset({"args", "kwargs", "headers"})

_VARIES = "differs in each process"

#: What an entry is where nothing else is said.
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
    """An entry in the database; its content has its name."""

    key: int
    content: Content

    @property
    def name(self) -> str:
        """Its name now, which a user may have changed."""
        return str(self.content["name"])


@dataclass(frozen=True)
class Mark:
    """What we wrote: the declared name, the row and its content. A row that is gone a user has deleted."""

    name: str
    key: int
    written: Content


@dataclass(frozen=True)
class Step:
    """Where one entry stands and what is to be done with it.

    Attributes:
        name: The declared name; of a user's entry its own.
        edited: Fields in which a user made it differ from what we wrote.
        differing: Fields in which it differs from what is declared.
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
        """Whether it concerns the entry itself, and not its mark alone."""
        return self.action in (ADD, CHANGE, REMOVE)


def differing(one: Content, other: Content) -> tuple[str, ...]:
    """The fields of ``one`` that are otherwise in ``other``."""
    # As JSON: to Python 1 is True as well.
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
) -> list[Step]:
    """What has to be done, in the order of declaration; users' entries come last.

    Args:
        declared: Contents by name.
        rows: All entries of the database.
        marks: All of ours.
        edited: `KEEP` or `RESET`, for what a user edited.
        reset: Names that are reset in any case.
    """
    by_key = {row.key: row for row in rows}
    by_name = {row.name: row for row in by_key.values()}
    ours = {mark.name: mark for mark in marks}
    found: list[Step] = []
    for name, wanted in declared.items():
        again = edited == RESET or name in reset
        found.append(_declared(name, wanted, ours.get(name), by_key, by_name, again=again))
    for name, mark in ours.items():
        if name not in declared:
            found.append(_left(mark, by_key.get(mark.key)))
    known = {step.row.key for step in found if step.row is not None}
    found += [Step(row.name, USERS, row=row) for row in by_key.values() if row.key not in known]
    return found


def _declared(
    name: str,
    wanted: Content,
    mark: Mark | None,
    by_key: Mapping[int, Row],
    by_name: Mapping[str, Row],
    *,
    again: bool,
) -> Step:
    row = by_key.get(mark.key) if mark is not None else None
    holder = by_name.get(name)
    if holder is not None and (row is None or holder.key != row.key):
        # Where a user renamed ours and made one of its name, both are left alone.
        return Step(name, TAKEN, NOTHING if mark is None else FORGET, holder, wanted)
    if mark is None:
        return Step(name, NEW, ADD, None, wanted)
    if row is None:
        if again:
            return Step(name, DELETED, ADD, None, wanted)
        return Step(name, DELETED, NOTHING, None, wanted)
    changes = differing(wanted, row.content)
    if not changes:
        same = differing(wanted, mark.written) == ()
        return Step(name, DECLARED, NOTHING if same else MARK, row, wanted)
    own = differing(mark.written, row.content)
    if not own:
        return Step(name, DECLARED, CHANGE, row, wanted, (), changes)
    state = DISABLED if own == ("enabled",) and not row.content["enabled"] else EDITED
    return Step(name, state, CHANGE if again else NOTHING, row, wanted, own, changes)


def _left(mark: Mark, row: Row | None) -> Step:
    if row is None or row.name != mark.name:
        # Gone, or renamed, by which a user has made it an own one.
        return Step(mark.name, LEFT, FORGET)
    return Step(mark.name, LEFT, REMOVE, row, None, differing(mark.written, row.content))


# --- for people ---


def item(step: Step, varying: Sequence[str] = ()) -> dict[str, Any]:
    """A step that has to be taken, as the plan shows it.

    Args:
        step: It.
        varying: Fields that the code computes otherwise in each process, so that a plan can't know their values.
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
        why = ["a user had made it so already"]
    elif step.action == FORGET:
        why = ["a user has deleted it or made it an own one"]
    return {"entry": step.name, "action": step.action, "why": why}


def varies(name: str, fields: Sequence[str]) -> str:
    """What a person should know of an entry whose code computes it anew in each process."""
    return (
        f"schedule entry {name}: the code gives it another {' and '.join(fields)} in each process, by hash() of a text"
        " for example, so each run writes another one. Have the code compute it by zlib.crc32(), or set"
        ' PYTHONHASHSEED: "0" in celery_app_env if it is by hash().'
    )


def note(step: Step) -> str:
    """What a person should know of an entry that is left as it is; empty where there is nothing."""
    if step.touches:
        return ""
    if step.state == TAKEN:
        return (
            f"schedule entry {step.name} is not written: a user's entry has this name. Rename or delete that one, or"
            " give ours another name."
        )
    if step.state == DELETED:
        return f"schedule entry {step.name} was deleted by a user, and stays so."
    if step.state in (EDITED, DISABLED):
        return (
            f"schedule entry {step.name} was {step.state} by a user and stays so: declared is"
            f" {'; '.join(_differences(step, declared=True))}."
        )
    return ""


def _differences(step: Step, *, declared: bool = False, varying: Sequence[str] = ()) -> list[str]:
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
    """A value as a person writes it."""
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
