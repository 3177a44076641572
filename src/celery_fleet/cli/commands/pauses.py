"""``celery-fleet pause`` and ``resume``: have workers fetch no tasks, or none of a queue, until told otherwise."""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from celery_fleet.cli import ask, complete, output
from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import BAD, USAGE, CommandError
from celery_fleet.cli.options import Context, Seconds, command
from celery_fleet.common import pauses
from celery_fleet.common.counters import SECOND
from celery_fleet.common.text import count

#: Seconds between two questions whether tasks still run.
INTERVAL = 2.0

_TARGETS = tuple(
    click.option(
        f"--{kind}",
        f"{kind}s",
        multiple=True,
        metavar="NAME",
        shell_complete=completion,
        help=text,
    )
    for kind, completion, text in (
        (pauses.QUEUE, complete.queue, "A queue, in all workers."),
        (
            pauses.WORKER,
            complete.worker,
            "A worker, on all its hosts, or as NAME@HOST on one.",
        ),
        (pauses.HOST, complete.host, "All workers of a host."),
    )
)


def _with_targets(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_TARGETS):
        function = option(function)
    return function


@command(
    examples=(
        "sudo celery-fleet pause --queue mail --why 'the provider is down'",
        "sudo celery-fleet pause --worker reports --wait 600",
        "sudo celery-fleet pause --all",
    ),
)
@_with_targets
@click.option("--all", "every", is_flag=True, help="All workers.")
@click.option("--why", default="", metavar="TEXT", help="The reason, which `status` shows.")
@click.option(
    "--wait",
    type=Seconds(0, 1_000_000),
    default=0,
    metavar="SECONDS",
    help="Wait at most this long until no task of a paused queue runs any more.",
)
def pause(
    context: Context,
    queues: tuple[str, ...],
    workers: tuple[str, ...],
    hosts: tuple[str, ...],
    every: bool,
    why: str,
    wait: float,
) -> None:
    """Have workers fetch no tasks, or none of a queue, until `celery-fleet resume`.

    Tasks that have not started return to their queues; running tasks continue. A pause outlasts crashes, reboots and
    deploys. Senders and beat go on, so the queues grow.

    Status 1: a worker can't pause, or tasks still run after --wait.
    """
    application = context.application
    chosen = _chosen(application, queues, workers, hosts, every)
    if not chosen:
        raise CommandError("what to pause? --queue, --worker, --host or --all", USAGE)
    for one in chosen:
        if not affected(application, [one]):
            raise CommandError(
                f"{_words(one)}: only processes outside of the fleet consume it, which don't know pauses",
                USAGE,
            )
    found = _change(context, "pause", targets=chosen, by=operator(), why=why)
    lines = [
        f"{_words(one)} {'is' if one in found['changed'] else 'was already'} paused."
        for one in chosen
    ]
    nodes = affected(application, chosen)
    began = time.monotonic()
    told = _tell_refused(found)
    try:
        while (rest := _rest(nodes, found)) and (left := began + wait - time.monotonic()) > 0:
            time.sleep(min(INTERVAL, left))
            with contextlib.suppress(CommandError):  # the broker may be away for a moment
                found = {**_ask(context, "ask"), "changed": found["changed"]}
                told |= _tell_refused(found, told)
    except KeyboardInterrupt:
        wait = max(round(time.monotonic() - began, 1), 0.1)
    _tell(context, found, lines, nodes)
    if wait and rest:
        raise CommandError(f"after {wait:.15g} s {', '.join(rest)}", BAD)
    if _refused(found):
        raise click.exceptions.Exit(BAD)


@command(
    examples=(
        "sudo celery-fleet resume --queue mail",
        "sudo celery-fleet resume --all",
        "sudo celery-fleet resume --host worker2 --why 'database work'",
    ),
)
@_with_targets
@click.option("--all", "every", is_flag=True, help="What `pause --all` has paused.")
@click.option("--why", metavar="TEXT", help="Only the pause with this reason.")
def resume(
    context: Context,
    queues: tuple[str, ...],
    workers: tuple[str, ...],
    hosts: tuple[str, ...],
    every: bool,
    why: str | None,
) -> None:
    """End pauses, so that the workers fetch tasks again.

    Each pause is ended by the option that made it: `--queue mail` does not end a pause of the worker that consumes it.
    Something that several people have paused stays paused until the last pause ends. This ends yours, if there is one.

    Status 1: what was named is not paused, or more than one pause could be meant.
    """
    application = context.application
    chosen = _chosen(application, queues, workers, hosts, every, known=False)
    if not chosen:
        raise CommandError("what to resume? --queue, --worker, --host or --all", USAGE)
    found = _change(context, "resume", targets=chosen, by=operator(), why=why)
    still = {one["target"] for one in found["pauses"]}
    lines = [
        f"a pause of {_words(one)} has ended, another one remains."
        if one in still
        else f"{_words(one)} is no longer paused."
        for one in found["changed"]
    ]
    missing = [one for one in chosen if one not in found["changed"]]
    _tell(context, found, lines, affected(application, chosen))
    if missing:
        if why is None and (several := [one for one in missing if one in still]):
            names = ", ".join(map(_words, several))
            raise CommandError(f"{names} is paused more than once; choose a pause with --why", BAD)
        reason = "" if why is None else " for this reason"
        have = ", ".join(dict.fromkeys(str(one["words"]) for one in found["pauses"]))
        raise CommandError(
            f"{', '.join(map(_words, missing))} was not paused{reason}; paused is {have or 'nothing'}",
            BAD,
        )
    if _tell_refused(found):
        raise click.exceptions.Exit(BAD)


def operator() -> str:
    """Return the name of the person who runs the command: who called sudo, or else the user."""
    user = os.environ.get("SUDO_USER")
    try:
        return user or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _words(target: str) -> str:
    return pauses.Pause(target).words


def _chosen(
    application: Application,
    queues: Iterable[str],
    workers: Iterable[str],
    hosts: Iterable[str],
    every: bool,
    known: bool = True,
) -> list[str]:
    """Return the targets of a command; with `known`, refuse names that the inventory does not have."""
    nodes = {name.partition("@")[0] for name in application.workers} | {*application.workers}
    with_workers = sorted({name.partition("@")[2] for name in application.workers})
    found = []
    for kind, names, have in (
        (pauses.QUEUE, queues, application.queues),
        (pauses.WORKER, workers, sorted(nodes)),
        (pauses.HOST, hosts, with_workers),
    ):
        for name in names:
            if known and name not in have:
                raise CommandError(
                    f"{kind} {name}: the inventory has {', '.join(have) or 'none'}", USAGE
                )
            found.append(pauses.target(kind, name))
    if every:
        found.append(pauses.ALL)
    return list(dict.fromkeys(found))


def _change(context: Context, do: str, **request: Any) -> Mapping[str, Any]:
    with ask.in_doubt("`celery-fleet status` shows what is paused"):
        return _ask(context, do, **request)


def _ask(context: Context, do: str, **request: Any) -> Mapping[str, Any]:
    application = context.application
    with ask.bounded(do, context.bound()):
        found: Mapping[str, Any] = ask.question(
            application, "pauses", do=do, expected=list(application.workers), **request
        )
    return found


def affected(application: Application, chosen: Iterable[str]) -> dict[str, list[str]]:
    """Return the queues that such pauses stop, by node."""
    made = [pauses.Pause(one) for one in chosen]
    found = {
        node: list(pauses.paused(made, node, queues))
        for node, queues in application.workers.items()
    }
    return {node: queues for node, queues in found.items() if queues}


def _rest(nodes: Mapping[str, Iterable[str]], found: Mapping[str, Any]) -> list[str]:
    """Return what may still run in the queues of these nodes, in words; nothing of those that can't be paused."""
    refused = _refused(found)
    nodes = {node: queues for node, queues in nodes.items() if node not in refused}
    number, silent = running(nodes, found), _silent(nodes, found)
    rest = [f"{count(number, 'task')} still {_run(number)}"] if number else []
    rest += [f"{node} does not answer" for node in silent]
    for node, queues in nodes.items():
        paused = found["workers"].get(node, {}).get("paused", ())
        missing = [queue for queue in queues if queue not in paused]
        if missing and node not in silent:
            rest.append(f"{node} has not paused {', '.join(missing)}")
    return rest


def _silent(nodes: Iterable[str], found: Mapping[str, Any]) -> list[str]:
    """Return the nodes that have not answered; one with a solo pool answers between two tasks."""
    return [node for node in nodes if found["workers"].get(node, {"later": True}).get("later")]


def _run(number: int) -> str:
    return "runs" if number == 1 else "run"


def running(nodes: Mapping[str, Iterable[str]], found: Mapping[str, Any]) -> int:
    """Return how many tasks run in the queues of these nodes, as far as workers have said."""
    number = 0
    for name, reply in found["workers"].items():
        worker, _, host = name.partition("@")
        for queue in nodes.get(f"{worker.removesuffix(SECOND)}@{host}", ()):
            number += int((reply.get("paused") or {}).get(queue, 0))
    return number


def _tell(
    context: Context,
    found: Mapping[str, Any],
    lines: Iterable[str],
    nodes: Mapping[str, Iterable[str]],
) -> None:
    if context.json:
        output.as_json(found)
        return
    for line in lines:
        output.say(line[0].upper() + line[1:])
    if number := running(nodes, found):
        output.say(f"{count(number, 'task')} of what is paused still {_run(number)}.")
    if found["unheard"]:
        output.say(
            f"The workers could not be told ({found['unheard']}): they notice within half a minute."
        )
    elif silent := _silent(nodes, found):
        output.say(f"No answer from {', '.join(silent)}: they notice when they answer again.")
    show(found["pauses"])


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a table of all pauses, if there are any."""
    made = [
        (one["words"], output.ago(_moment(one["since"])), one["by"], one["why"]) for one in rows
    ]
    if made:
        output.table("Paused", ("what", "for", "by", "why"), made)


def _moment(seconds: Any) -> datetime | None:
    return datetime.fromtimestamp(float(seconds), UTC) if seconds else None


def _refused(found: Mapping[str, Any]) -> dict[str, str]:
    """Return why workers can't be paused, by node."""
    return {
        node: str(reply.get("why_not") or reply.get("error"))
        for node, reply in sorted(found["workers"].items())
        if reply.get("why_not") or reply.get("error")
    }


def _tell_refused(found: Mapping[str, Any], told: Iterable[str] = ()) -> set[str]:
    """Report workers that can't be paused, except those already reported; return the nodes of all of them."""
    refused = _refused(found)
    for node in sorted(refused.keys() - set(told)):
        output.say(f"celery-fleet: {node} does not obey pauses: {refused[node]}", err=True)
    return set(refused)
