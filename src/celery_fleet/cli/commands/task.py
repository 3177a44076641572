"""``celery-fleet task``: what became of one task, on all hosts, by the history and this host's journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from celery_fleet.cli import ask, journal, output
from celery_fleet.cli.application import Application
from celery_fleet.cli.commands.results import checked_id
from celery_fleet.cli.errors import BAD, CommandError
from celery_fleet.cli.options import Context, command
from celery_fleet.common.text import count

#: Seconds of the command's time that are kept for the result and the answer.
REST = 3.5

#: Seconds that the journal may take.
JOURNAL = 2.0

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
        if run["received"] is not None:
            queue = f" from the queue {run['queue']}" if run["queue"] else ""
            yield run["received"], run["node"], f"was received{queue}"
        if run["started"] is not None:
            yield run["started"], run["node"], "was started"
        if run["ended"] is not None:
            failed = f"failed with {run['detail'] or 'an exception'}"
            yield run["ended"], run["node"], _ENDS.get(run["state"], failed)
        elif run["source"] == "journal":
            yield None, run["node"], "has no end in the journal"
        elif number < len(runs) - 1:
            yield (
                None,
                run["node"],
                "has no recorded end: the worker died, or the history has a gap",
            )
        else:
            state = "waits there to be started" if run["started"] is None else "is running"
            yield None, run["node"], f"{state}, or the worker died"


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


def from_journal(application: Application, task_id: str) -> tuple[list[journal.Run], str]:
    """Return the runs in this host's journal, and what to say of it if the history has none."""
    of = f"the journal of {application.host}"
    if application.log_directory is not None:
        return [], f"{of} was not searched, because {application.name} logs to files"
    if not any(node.endswith(f"@{application.host}") for node in application.workers):
        return [], f"no worker runs on {application.host}"
    try:
        runs = journal.read(application, task_id, JOURNAL)
    except CommandError as error:
        return [], f"{of} was not searched: {error.message}"
    if not runs:
        return [], f"{of} does not have it; at a loglevel above INFO it only has failures"
    return runs, f"this is what {of} has: workers don't log when a task was sent"


def elsewhere(application: Application, task_id: str) -> str:
    """Say which logs the command has not searched, and how to do that; nothing if there are none."""
    workers = {node.partition("@")[2] for node in application.workers}
    hosts = [
        host
        for host in application.hosts
        if host in workers and (host != application.host or application.log_directory)
    ]
    if not hosts:
        return ""
    return f"logs that were not searched: sudo celery-fleet logs --task {task_id} on {', '.join(hosts)}"


@command(
    bound=True,
    examples=(
        "sudo celery-fleet task 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
        "sudo celery-fleet --timeout 60 task 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
    ),
)
@click.argument("task_id")
def task(context: Context, task_id: str) -> None:
    """Show what became of a task: when it was sent, received, started and done, by which workers.

    It reads the history that workers keep in the result store (celery_app_history_mb), so the workers and their hosts
    need not exist any more. What the history lacks comes from this host's journal, if it is there. `celery-fleet logs
    --task` shows all that a host's workers have logged about it.

    Status 1: neither has it.
    """
    checked_id(task_id)
    application = context.application
    application.settings()  # a user who may not read them may not read the journal either
    logged, about_journal = from_journal(application, task_id)
    seconds = max(1.0, context.left() - REST)
    try:
        found = ask.question(application, "task", id=task_id, seconds=seconds)
        trouble, status = "" if found["runs"] else missing(found), BAD
    except CommandError as error:
        found = {"id": task_id, "runs": [], "since": None, "whole": False, "result": None}
        trouble, status = error.message, error.exit_code
    found["runs"] = journal.merged(found["runs"], logged)
    if context.json:
        output.as_json(found)
    elif found["runs"]:
        show(found)
    if trouble:
        for note in filter(None, (trouble, about_journal, elsewhere(application, task_id))):
            output.say(f"celery-fleet: {note}", err=True)
    if not found["runs"]:
        raise click.exceptions.Exit(status)


def show(found: Mapping[str, Any]) -> None:
    """Print the runs and the state of the result."""
    runs = found["runs"]
    title = f"{runs[-1]['name']}, {count(len(runs), 'run')}"
    output.table(title, ("when (UTC)", "after", "where", "what"), table(list(rows(runs))))
    if found["result"]:
        output.say(f"Result: {found['result']['state']}")
