"""``celery-fleet result`` and ``revoke``: show a task's result, and keep tasks from being run."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from celery_fleet.cli import ask, output
from celery_fleet.cli.errors import BAD, USAGE, CommandError
from celery_fleet.cli.options import Context, Seconds, command

#: Celery's own ids are UUIDs; the sender of a task may choose another.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{7,254}\Z")

#: Seconds that workers get to confirm a revocation.
ANSWER = 2.0


def checked_id(text: str) -> str:
    """Check and return the id of a task.

    Raises:
        CommandError: It can't be one.
    """
    if _ID.match(text):
        return text
    raise CommandError(
        f"{text!r} is not the id of a task, such as 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6", USAGE
    )


def checked_signal(text: str) -> str:
    """Return the name of a signal with SIG in front, from its name or number.

    Raises:
        CommandError: There is no such signal.
    """
    word = text.upper()
    try:
        if word.isdigit():
            return signal.Signals(int(word)).name
        return signal.Signals[word if word.startswith("SIG") else f"SIG{word}"].name
    except (ValueError, KeyError):
        raise CommandError(
            f"--signal {text}: is not a signal; use TERM, KILL, INT or another", USAGE
        ) from None


def ask_for(context: Context, identity: str, wait: float) -> dict[str, Any]:
    """Return what the result store has of a task once it has ended, or after so many seconds."""
    with ask.bounded("result", wait + context.bound()):
        found: dict[str, Any] = ask.question(context.application, "result", id=identity, wait=wait)
    return found


def done_at(text: str) -> str:
    """Return when a task ended, in UTC. Celery stores it in the application's time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return output.printable(text)
    return output.utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def show_outcome(found: Mapping[str, Any]) -> None:
    """Print how a task ended: its result, or its error with the traceback."""
    if found["ok"]:
        result = found["result"]
        output.say_exactly(result if isinstance(result, str) else output.json_text(result))
        return
    if found.get("traceback"):
        output.say(str(found["traceback"]).rstrip(), err=True)
    output.say(f"celery-fleet: {found['state']}: {found['error'] or 'without a message'}", err=True)


@command(
    examples=(
        "sudo celery-fleet result 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
        "sudo celery-fleet result 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6 --wait 300",
        "sudo celery-fleet --format json result 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6 | jq .state",
    ),
)
@click.argument("task_id")
@click.option(
    "--wait",
    type=Seconds(0, 1_000_000),
    default=0,
    metavar="SECONDS",
    help="Wait at most this long for it to end.",
)
def result(context: Context, task_id: str, wait: float) -> None:
    """Show a task's state and its result, or its error with the traceback, from the result store.

    PENDING means that there is no result: the task waits, or runs, or ended longer than `result_expires` ago, or never
    existed. `celery-fleet inspect query_task` asks the workers for it.

    Status 1: it failed, was revoked, or has not ended within --wait.
    """
    checked_id(task_id)
    with context.within("result", wait + context.bound()):
        found = ask_for(context, task_id, wait)
    if context.json:
        output.as_json(found)
    else:
        output.say(f"{found['state']}" + (f" at {done_at(found['done'])}" if found["done"] else ""))
        if found["ready"]:
            show_outcome(found)
    if (found["ready"] or wait) and not found["ok"]:
        raise click.exceptions.Exit(BAD)


@command(
    bound=True,
    examples=(
        "sudo celery-fleet revoke 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
        "sudo celery-fleet revoke --terminate --signal KILL 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
    ),
)
@click.argument("task_ids", nargs=-1, required=True, metavar="TASK_ID...")
@click.option("--terminate", is_flag=True, help="Also end the process that runs it.")
@click.option("--signal", "signal_", metavar="SIGNAL", help="With --terminate; TERM by default.")
def revoke(
    context: Context, task_ids: tuple[str, ...], terminate: bool, signal_: str | None
) -> None:
    """Tell the workers not to start tasks.

    A running task continues, unless --terminate ends it. Workers keep this in memory: a worker forgets it when it
    restarts, unless the inventory gives it a `statedb`.

    Status 1: a worker of the inventory gave no answer, so it may run them.
    """
    if signal_ and not terminate:
        raise CommandError("--signal only works with --terminate", USAGE)
    application = context.application
    with ask.in_doubt("workers may have been told all the same"):
        found = ask.question(
            application,
            "revoke",
            ids=[checked_id(task_id) for task_id in task_ids],
            terminate=terminate,
            signal=checked_signal(signal_ or "TERM"),
            expected=list(application.workers),
            wait=ANSWER,
        )
    if context.json:
        output.as_json(found)
    else:
        output.table(
            "Revoked", ("worker", "answer"), [(node, _words(found[node])) for node in sorted(found)]
        )
    silent = [node for node in application.workers if node not in found]
    if silent:
        raise CommandError(
            f"no answer from {', '.join(silent)} within {ANSWER:g} s; they may run them", BAD
        )
    failed = [node for node in found if isinstance(found[node], Mapping) and "error" in found[node]]
    if failed:
        raise click.exceptions.Exit(BAD)


def _words(reply: Any) -> str:
    if isinstance(reply, Mapping) and reply:
        return str(next(iter(reply.values())))
    return str(reply)
