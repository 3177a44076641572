"""``celery-fleet inspect``: Celery's inspect methods, with short forms of the most common ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from celery_fleet.cli import ask, complete, output
from celery_fleet.cli.errors import BAD, USAGE, CommandError
from celery_fleet.cli.options import Context, Seconds, command
from celery_fleet.ops.inspection import METHODS

#: The methods that are also commands.
SHORT_FORMS: Mapping[str, str] = {
    "active": "Show the tasks that the workers run.",
    "scheduled": "Show the tasks that the workers hold until they are due.",
    "reserved": "Show the tasks that the workers have fetched and not started.",
    "registered": "Show the tasks that the workers know.",
    "stats": "Show the workers' pools, counts and use of the host.",
    "conf": "Show the workers' settings, without passwords.",
}

_node_option = click.option(
    "-d",
    "--destination",
    "nodes",
    multiple=True,
    metavar="NODE",
    shell_complete=complete.node,
    help="A worker by its node name; may be given several times. All by default.",
)
#: Seconds for everything except the workers' own answers, if --timeout is not given before the command's name.
REST = ask.BOUND - 4.0

_wait_option = click.option(
    "-t",
    "--timeout",
    "wait",
    type=Seconds(0.1, 1_000_000),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long workers may take to answer.",
)


@command(
    timeout=False,
    examples=(
        "sudo celery-fleet inspect active",
        "sudo celery-fleet inspect registered -d discounts@worker1",
        "sudo celery-fleet inspect query_task 6f1e…",
        "sudo celery-fleet inspect stats --format json",
    ),
)
@click.argument("method", type=click.Choice(METHODS), metavar="QUESTION")
@click.argument("arguments", nargs=-1, metavar="[TASK_ID]...")
@_node_option
@_wait_option
def inspect(
    context: Context, method: str, arguments: tuple[str, ...], nodes: tuple[str, ...], wait: float
) -> None:
    """Ask the workers what they run, hold and know, and for their settings.

    QUESTION is one of active, active_queues, clock, conf, ping, query_task, registered, report, reserved, revoked,
    scheduled and stats.

    Status 1 if a worker of the inventory, or one that is named by -d, does not answer.
    """
    if arguments and method != "query_task":
        raise CommandError(f"inspect {method} takes no {' '.join(arguments)}", USAGE)
    if method == "query_task" and not arguments:
        raise CommandError("inspect query_task needs the id of a task", USAGE)
    ask_workers(context, method, nodes, wait, arguments)


def ask_workers(
    context: Context,
    method: str,
    nodes: tuple[str, ...],
    wait: float,
    arguments: tuple[str, ...] = (),
) -> None:
    """Ask the workers and print the answers.

    Raises:
        CommandError: Some workers gave no answer.
    """
    application = context.application
    expected = list(nodes) or list(application.workers)
    with context.within(method, max(context.bound(), wait + REST)):
        found = ask.question(
            application,
            "inspect",
            method=method,
            arguments=arguments,
            nodes=nodes,
            expected=expected,
            wait=wait,
        )
    silent = [node for node in expected if node not in found]
    if context.json:
        output.as_json(found)
    else:
        show(method, found)
    if silent:
        raise CommandError(
            f"no answer from {', '.join(silent)} within {wait:g} s; see `celery-fleet status` and"
            " `celery-fleet logs` there",
            BAD,
        )


def _short(method: str, text: str) -> click.Command:
    def asked(context: Context, nodes: tuple[str, ...], wait: float) -> None:
        ask_workers(context, method, nodes, wait)

    asked.__doc__ = f"{text} The same as `inspect {method}`."
    examples = (f"sudo celery-fleet {method}", f"sudo celery-fleet {method} --format json")
    decorate: Callable[[Any], click.Command]
    decorate = command(name=method, timeout=False, examples=examples)
    return decorate(_node_option(_wait_option(asked)))


SHORT = tuple(_short(method, text) for method, text in SHORT_FORMS.items())


def show(method: str, found: Mapping[str, Any]) -> None:
    """Print the answers as a table or as a tree."""
    columns, right = TABLES.get(method, ((), ()))
    rows = [row for node in sorted(found) for row in rows_of(method, node, found[node])]
    if columns:
        output.table(method, ("worker", *columns), rows, right)
        return
    for node in sorted(found):
        output.say(f"{node}:")
        for text in tree(found[node], 2):
            output.say(text)


#: Columns after the worker's name, and those with numbers.
TABLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "active": (("task", "id", "since", "process"), ("process",)),
    "reserved": (("task", "id"), ()),
    "scheduled": (("task", "id", "eta"), ()),
    "registered": (("task",), ()),
    "revoked": (("id",), ()),
    "ping": (("answer",), ()),
    "active_queues": (("queue", "exchange", "routing key"), ()),
    "clock": (("clock",), ("clock",)),
}


def rows_of(method: str, node: str, reply: Any) -> list[tuple[Any, ...]]:
    """Return one worker's rows."""
    if method == "ping":
        return [(node, reply.get("ok", reply) if isinstance(reply, Mapping) else reply)]
    if method == "clock":
        return [(node, reply.get("clock") if isinstance(reply, Mapping) else reply)]
    if not isinstance(reply, list):
        return [(node, str(reply))]
    if method in ("registered", "revoked"):
        return [(node, str(item)) for item in reply]
    if method == "active_queues":
        return [
            (
                node,
                item.get("name"),
                (item.get("exchange") or {}).get("name"),
                item.get("routing_key"),
            )
            for item in reply
        ]
    rows: list[tuple[Any, ...]] = []
    for item in reply:
        task = item.get("request", item) if method == "scheduled" else item
        name = (node, task.get("name"), task.get("id"))
        if method == "active":
            started = task.get("time_start")
            rows.append((*name, _moment(started), task.get("worker_pid")))
        elif method == "scheduled":
            rows.append((*name, item.get("eta")))
        else:
            rows.append(name)
    return rows


def _moment(seconds: Any) -> str | None:
    if not isinstance(seconds, (int, float)):
        return None
    return output.utc(datetime.fromtimestamp(seconds, UTC))


def tree(value: Any, indent: int) -> list[str]:
    """Return nested values as indented lines."""
    pad = " " * indent
    if isinstance(value, Mapping):
        lines = []
        for key, item in value.items():
            if isinstance(item, (Mapping, list)) and item:
                lines += [f"{pad}{key}:", *tree(item, indent + 2)]
            else:
                lines.append(f"{pad}{key}: {_plain(item)}")
        return lines
    if isinstance(value, list):
        return [text for item in value for text in tree(item, indent)]
    return [f"{pad}{text}" for text in str(value).splitlines()] or [pad.rstrip()]


def _plain(item: Any) -> str:
    return "none" if item in ({}, [], None) else str(item)
