"""``celery-fleet run``: run a task by hand."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, NoReturn

import click

from celery_fleet.cli import ask, complete, output
from celery_fleet.cli.application import Application
from celery_fleet.cli.commands import results
from celery_fleet.cli.errors import BAD, UNKNOWN, USAGE, CommandError, need_root
from celery_fleet.cli.options import Context, Seconds, command
from celery_fleet.cli.tasks import registered, resolve

#: Seconds to wait for a result by default.
WAIT = 60.0

#: Seconds that are kept for stopping a program that takes too long to send.
ENDING = 1.5

_KINDS: Mapping[type, str] = {
    list: "a list, such as '[1, \"a\"]'",
    dict: "an object, such as '{\"force\": true}'",
}


def parsed(option: str, text: str, kind: type) -> Any:
    """Return the JSON value of an option.

    Raises:
        CommandError: It is not JSON (with the position), or has another type.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_number)
    except json.JSONDecodeError as error:
        raise CommandError(
            f"{option}: not JSON at line {error.lineno}, column {error.colno}: {error.msg};"
            f" give {_KINDS[kind]}",
            USAGE,
        ) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{option}: not JSON: {error}; give {_KINDS[kind]}", USAGE) from None
    if not isinstance(value, kind):
        raise CommandError(f"{option}: {_name(value)}, must be {_KINDS[kind]}", USAGE)
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} does not exist in JSON")


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        # No worker could read the JSON that would be sent.
        raise ValueError(f"{text} is too large a number")
    return value


def _name(value: Any) -> str:
    if value is None:
        return "null"
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false"}
    return names.get(type(value), "a number")


def consumed(application: Application, queue: str | None, anyway: bool) -> list[str] | None:
    """Return the queues that a task may go to; None if any queue is allowed.

    Raises:
        CommandError: No worker consumes the named queue.
    """
    if anyway:
        return None
    have = application.consumed
    if queue is not None and queue not in have:
        raise CommandError(
            f"--queue {queue}: no worker of the inventory consumes it; consumed are"
            f" {', '.join(have) or 'none'}; --anyway sends it nevertheless",
            USAGE,
        )
    return have


@dataclass(frozen=True)
class Call:
    """A task's name, which may be shortened, and its arguments as JSON."""

    task: str
    args: str
    kwargs: str


def calling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add TASK, --args and --kwargs, which the function takes as `call`."""

    def called(context: Context, task: str, args: str, kwargs: str, **options: Any) -> Any:
        return function(context, call=Call(task, args, kwargs), **options)

    wrapped: Callable[..., Any] = update_wrapper(called, function)
    for option in (
        click.option(
            "--kwargs", default="{}", metavar="JSON", help="Its keyword arguments, a JSON object."
        ),
        click.option("--args", default="[]", metavar="JSON", help="Its arguments, a JSON list."),
        click.argument("task", shell_complete=complete.task),
    ):
        wrapped = option(wrapped)
    return wrapped


@command(
    name="run",
    timeout=False,
    examples=(
        "sudo celery-fleet run system_health_check",
        "sudo celery-fleet run sync_all_suppliers --async",
        "sudo celery-fleet run sync_supplier_products --args '[1]' --kwargs '{\"force_full_sync\": true}'",
        "sudo celery-fleet run core.tasks.backup_database --timeout 600",
        "sudo celery-fleet run system_health_check --here",
    ),
)
@calling
@click.option(
    "--queue",
    metavar="QUEUE",
    shell_complete=complete.queue,
    help="Send it to QUEUE instead of its route.",
)
@click.option("--anyway", is_flag=True, help="Send it even if no worker consumes the queue.")
@click.option("--async", "asynchronous", is_flag=True, help="Print its id and don't wait.")
@click.option(
    "--here", is_flag=True, help="Run it on this host in the release's Python, without a worker."
)
@click.option(
    "--timeout",
    type=Seconds(0, 1_000_000, min_open=True),
    metavar="SECONDS",
    help=f"How long it may take, {WAIT:g} by default; with --async how long sending may take, {ask.BOUND:g}.",
)
def run(
    context: Context,
    call: Call,
    queue: str | None,
    anyway: bool,
    asynchronous: bool,
    here: bool,
    timeout: float | None,
) -> None:
    """Run TASK and print its result.

    TASK is a name from `celery-fleet tasks`, or its end if no other task's name has that. It is sent as the
    application's web process would send it. Then the command waits for it; Ctrl-C ends the waiting, not the task.

    Status 1: the task failed, or has not ended in time.
    """
    application = context.application
    if here and (asynchronous or queue):
        raise CommandError("--here sends nothing: omit --async and --queue", USAGE)
    request: dict[str, Any] = {
        "args": parsed("--args", call.args, list),
        "kwargs": parsed("--kwargs", call.kwargs, dict),
    }
    allowed = consumed(application, queue, anyway)
    request["task"] = resolve(registered(application), call.task)
    if os.geteuid() != 0:
        raise need_root("run tasks as the application's user" if here else "send tasks")
    if here:
        request["do"] = "apply"
        done = answered(context, "producer", request, timeout or WAIT, errors=True)
        _finish(context, done)
        return
    whole = timeout or (context.bound() if asynchronous else WAIT)
    request.update(do="send", queue=queue, consumed=allowed)
    limit = max(whole, context.bound())
    with sending(context, request["task"], request), context.within("run", limit):
        # Stop before that limit, because only exec also stops the process.
        sent = answered(context, "producer", request, max(context.left(limit) - ENDING, 1))
    if asynchronous or sent["ignored"]:
        _only_sent(context, sent)
        return
    _wait(context, sent, whole)


def answered(
    context: Context,
    component: str,
    request: Mapping[str, Any],
    seconds: float,
    errors: bool = False,
) -> dict[str, Any]:
    """Return the answer of `celery_fleet.ops.tasks`, which runs in the release as a component.

    Raises:
        CommandError: It could not do that, or not in time.
    """
    program = ["python", "-m", "celery_fleet.ops.tasks"]
    found = ask.in_release(context.application, component, program, seconds, request, errors)
    if not found["ok"]:
        raise CommandError(found["error"], USAGE if found.get("usage") else UNKNOWN)
    answer: dict[str, Any] = found["answer"]
    return answer


def sending(context: Context, what: str, request: dict[str, Any]) -> AbstractContextManager[None]:
    """Choose the id of the task that a request sends, so that an error in the block can name it."""
    request["id"] = identity = str(uuid.uuid4())
    look = f"{context.application.command} task {identity}"
    return ask.in_doubt(f"{what} may have been sent all the same, as {identity}: {look}")


def say_sent(sent: Mapping[str, Any], err: bool = False) -> None:
    """Print where a task was sent, and its id."""
    there = sent["queue"] or "its exchange"
    output.say(f"{sent['task']} was sent to {there} as {sent['id']}", err=err)


def _only_sent(context: Context, sent: Mapping[str, Any]) -> None:
    if context.json:
        output.as_json(sent)
        return
    output.say(sent["id"])
    if sent["ignored"]:
        output.say(f"celery-fleet: {sent['task']} leaves no result to wait for", err=True)


def _wait(context: Context, sent: Mapping[str, Any], whole: float) -> None:
    identity = sent["id"]
    later = f"{sent['task']} continues: {context.application.command} result {identity}"
    if not context.json:
        say_sent(sent, err=True)
    try:
        found = results.ask_for(context, identity, max(context.left(whole), 0))
    except KeyboardInterrupt:
        raise CommandError(f"stopped waiting; {later}", BAD) from None
    except CommandError as error:
        raise CommandError(f"{error.message}; {sent['task']} was sent as {identity}") from None
    if not found["ready"]:
        raise CommandError(f"no result within {whole:g} s (state {found['state']}); {later}", BAD)
    _finish(context, {**sent, **found})


def _finish(context: Context, found: Mapping[str, Any]) -> None:
    shown = {name: item for name, item in found.items() if name not in ("ready", "ignored")}
    if context.json:
        output.as_json(shown)
    else:
        results.show_outcome(found)
    if not found["ok"]:
        raise click.exceptions.Exit(BAD)
