"""The state of entries and what has to be done, computed from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from celery_fleet.beat.database import plan as planning
from celery_fleet.beat.database.plan import DEFAULTS, Mark, PlannedEntry, Row

HOURLY = {"interval": 3_600_000_000}
DAILY = {"interval": 86_400_000_000}


def content(name: str = "a", **more: Any) -> dict[str, Any]:
    return {**DEFAULTS, "name": name, "task": "t", "schedule": HOURLY, **more}


def one(
    wanted: Mapping[str, Any] | None,
    row: Row | None,
    mark: Mark | None,
    *others: Row,
    **options: Any,
) -> PlannedEntry:
    """Return the step for the entry `a`."""
    declared = {} if wanted is None else {"a": wanted}
    rows = [*([row] if row else []), *others]
    found = planning.steps(declared, rows, [mark] if mark else [], **options)
    (step,) = [step for step in found if step.name == "a" and step.state != planning.USERS]
    return step


OURS = Mark("a", 1, content())


@pytest.mark.parametrize(
    ("wanted", "row", "mark", "edited", "expected"),
    [
        # Never written.
        (content(), None, None, "keep", ("not written yet", "add")),
        # As declared, and declared differently since.
        (content(), Row(1, content()), OURS, "keep", ("declared", "")),
        (content(schedule=DAILY), Row(1, content()), OURS, "keep", ("declared", "change")),
        # To Python 1 and True are equal.
        (
            content(args=[True]),
            Row(1, content(args=[1])),
            Mark("a", 1, content(args=[1])),
            "keep",
            ("declared", "change"),
        ),
        # What a user edited, disabled or deleted.
        (content(), Row(1, content(schedule=DAILY)), OURS, "keep", ("edited", "")),
        (content(), Row(1, content(schedule=DAILY)), OURS, "reset", ("edited", "change")),
        (content(), Row(1, content(enabled=False)), OURS, "keep", ("disabled", "")),
        (content(), Row(1, content(enabled=False)), OURS, "reset", ("disabled", "change")),
        (content(), Row(1, content(args=[1], enabled=False)), OURS, "keep", ("edited", "")),
        (content(), Row(1, content("b")), OURS, "keep", ("edited", "")),
        (content(), Row(1, content("b")), OURS, "reset", ("edited", "change")),
        (content(), None, OURS, "keep", ("deleted", "")),
        (content(), None, OURS, "reset", ("deleted", "add")),
        # An edit also stays one if the declaration changes; if both become the same, it is no longer one.
        (content(task="u"), Row(1, content(schedule=DAILY)), OURS, "keep", ("edited", "")),
        (
            content(schedule=DAILY),
            Row(1, content(schedule=DAILY)),
            OURS,
            "keep",
            ("declared", "mark"),
        ),
        # Another row of that name belongs to a user, even if ours was there before.
        (content(), Row(7, content()), None, "reset", ("taken", "")),
        (content(), Row(7, content()), OURS, "reset", ("taken", "forget")),
        # No longer declared.
        (None, Row(1, content()), OURS, "keep", ("no longer declared", "remove")),
        (None, Row(1, content(enabled=False)), OURS, "keep", ("no longer declared", "remove")),
        (None, Row(1, content("b")), OURS, "reset", ("no longer declared", "forget")),
        (None, Row(7, content()), OURS, "reset", ("no longer declared", "forget")),
        (None, None, OURS, "keep", ("no longer declared", "forget")),
    ],
)
def test_the_step_for_an_entry(
    wanted: Mapping[str, Any] | None,
    row: Row | None,
    mark: Mark | None,
    edited: str,
    expected: tuple[str, str],
) -> None:
    step = one(wanted, row, mark, edited=edited)
    assert (step.state, step.action) == expected


def test_users_entries_are_never_touched() -> None:
    users = [Row(7, content("b")), Row(8, content("c"))]
    found = planning.steps({"a": content()}, users, [], planning.RESET)
    assert [(step.name, step.state, step.action) for step in found] == [
        ("a", "not written yet", "add"),
        ("b", "user's", ""),
        ("c", "user's", ""),
    ]


def test_a_renamed_entry_and_a_users_entry_with_its_old_name_both_stay() -> None:
    step = one(content(), Row(1, content("b")), OURS, Row(7, content()), edited="reset")
    assert (step.state, step.action, step.row) == ("taken", "forget", Row(7, content()))


def test_only_named_entries_can_be_reset() -> None:
    row = Row(1, content(enabled=False))
    assert one(content(), row, OURS, reset=["b"]).action == ""
    assert one(content(), row, OURS, reset=["a"]).action == "change"


def test_a_field_that_an_older_version_did_not_write_is_not_an_edit() -> None:
    written = {key: value for key, value in content().items() if key != "headers"}
    row = Row(1, content(headers={"x": 1}))
    step = one(content(), row, Mark("a", 1, written))
    assert (step.state, step.action) == ("declared", "change")


def test_differences_are_reported_without_arguments() -> None:
    row = Row(1, content(kwargs={"key": "s3cr3t"}, schedule=DAILY, enabled=False))
    kept = one(content(kwargs={"key": "other"}), row, OURS)
    text = planning.note(kept)
    assert text == (
        "schedule entry a was edited by a user and stays so: declared is enabled true, not false; schedule every"
        " 3600 s, not every 86400 s; other kwargs."
    )
    reset = one(content(kwargs={"key": "other"}), row, OURS, edited="reset")
    assert planning.item(reset) == {
        "entry": "a",
        "action": "change",
        "why": [
            "enabled false → true",
            "schedule every 86400 s → every 3600 s",
            "kwargs",
            "a user edited it (enabled, schedule, kwargs)",
        ],
    }


def test_an_entry_that_the_release_has_no_task_for_stays_as_it_is() -> None:
    disabled = Row(1, content(enabled=False))
    step = one(None, disabled, OURS, left_out=["a"])
    assert (step.state, step.action, step.row) == ("not in this release", "", disabled)
    # It was deleted by a user, and the mark keeps it so.
    assert one(None, None, OURS, left_out=["a"]).action == ""
    # It was never written, and is not written now.
    assert planning.steps({}, [], [], left_out=["a"]) == []
