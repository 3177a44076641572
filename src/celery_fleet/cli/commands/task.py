"""``celery-fleet task``: what became of one task, on all hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from celery_fleet.cli import ask, output
from celery_fleet.cli.commands.results import checked_id
from celery_fleet.cli.errors import BAD
from celery_fleet.cli.options import Context, command
from celery_fleet.common.text import count

#: Seconds of the command's time that are kept for the result and the answer.
REST = 3.0

_ENDS = {
    "succeeded": "succeeded",
    "retried": "ended with a retry",
    "revoked": "was revoked",
    "rejected": "was rejected",
    "ignored": "ended without a result: it raised Ignore, or replaced itself by another task",
    "returned": "was given back: the worker ended or lost its connection",
}

Row = tuple[float | None, str, str]


def rows(runs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Yield what happened, in order: when (Unix time), where, and what."""
    sent = None
    for number, run in enumerate(runs):
        if run["sent"] is not None and run["sent"] != sent:
            sent = run["sent"]
            until = f", not to start before {moment(run['eta'])}" if run["eta"] else ""
            yield sent, run["origin"] or "", f"was sent{until}"
        yield run["received"], run["node"], f"was received from the queue {run['queue']}"
        if run["started"] is not None:
            yield run["started"], run["node"], "was started"
        if run["ended"] is not None:
            failed = f"failed with {run['detail']}"
            yield run["ended"], run["node"], _ENDS.get(run["state"], failed)
        elif number < len(runs) - 1:
            yield None, run["node"], "has no recorded end: the worker died"
        else:
            waits = run["started"] is None
            yield None, run["node"], "waits there to be started" if waits else "is running"


def moment(seconds: float | None) -> str:
    """Return a time in UTC as text."""
    if seconds is None:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def table(found: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Return the lines to show: when, how long after the line above, where, and what."""
    shown, before = [], None
    for when, where, what in found:
        # A clock of another host may be behind.
        after = "" if when is None or before is None else f"{max(0.0, when - before):.1f} s"
        shown.append((moment(when), after, where, what))
        before = when if when is not None else before
    return shown


def missing(found: Mapping[str, Any]) -> str:
    """Say why there is nothing to show."""
    if found["since"] is None:
        return (
            "there is no history: no worker has received a task yet, or celery_app_history_mb is 0, or the result "
            "store forbids it (a worker's log says so)"
        )
    if not found["whole"]:
        return f"not found back to {moment(found['since'])} UTC; --timeout 60 searches for longer"
    return (
        f"no worker has received it since {moment(found['since'])} UTC, when the history begins: it waits in a queue, "
        "was received before that, or does not exist"
    )


@command(
    examples=(
        "sudo celery-fleet task 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
        "sudo celery-fleet --timeout 60 task 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
    ),
)
@click.argument("task_id")
def task(context: Context, task_id: str) -> None:
    """Show what became of a task: when it was sent, received, started and done, by which workers.

    It reads the history that workers keep in the result store (celery_app_history_mb), so the workers and their hosts
    need not exist any more. `celery-fleet logs --task` shows what a host's workers have logged about it.

    Status 1: the history does not have it.
    """
    checked_id(task_id)
    seconds = max(1.0, context.bound() - REST)
    found = ask.question(context.application, "task", id=task_id, seconds=seconds)
    runs = found["runs"]
    if context.json:
        output.as_json(found)
    elif runs:
        shown = list(rows(runs))
        title = f"{runs[-1]['name']}, {count(len(runs), 'run')}"
        output.table(title, ("when (UTC)", "after", "where", "what"), table(shown))
        output.say(f"Result: {found['result']['state']}")
    else:
        output.say(f"celery-fleet: {missing(found)}", err=True)
    if not runs:
        raise click.exceptions.Exit(BAD)
