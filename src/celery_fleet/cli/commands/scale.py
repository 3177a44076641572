"""``celery-fleet scale``: give a worker another number of processes now, and until it is reset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from celery_fleet.cli import ask, complete, output
from celery_fleet.cli.application import Application
from celery_fleet.cli.commands.pauses import operator
from celery_fleet.cli.errors import BAD, USAGE, CommandError
from celery_fleet.cli.options import Context, command
from celery_fleet.common.pool_sizes import HIGHEST, LOWEST


@command(
    examples=(
        "sudo celery-fleet scale mail 6 --why 'a backlog after the outage'",
        "sudo celery-fleet scale mail 6 --host worker2",
        "sudo celery-fleet scale mail --reset",
    ),
)
@click.argument("worker", shell_complete=complete.worker_name)
@click.argument("processes", type=int, required=False)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    shell_complete=complete.host,
    help="Only the worker on this host.",
)
@click.option("--why", default="", metavar="TEXT", help="The reason, which `status` shows.")
@click.option("--reset", is_flag=True, help="Go back to what the inventory says.")
def scale(
    context: Context,
    worker: str,
    processes: int | None,
    hosts: tuple[str, ...],
    why: str,
    reset: bool,
) -> None:
    """Give WORKER this many processes now, instead of what the inventory says.

    Surplus processes end after their task. The number outlasts crashes, reboots and deploys, until --reset or
    until `concurrency` or `autoscale` changes in the inventory. A worker with `autoscale` keeps it as well.

    Status 1: a worker can't be scaled, or does not have that many processes yet; or, with --reset, it was not scaled.
    """
    application = context.application
    if reset == (processes is not None):
        raise CommandError("how many processes? Give their number, or --reset", USAGE)
    if processes is not None and not LOWEST <= processes <= HIGHEST:
        raise CommandError(
            f"{processes} processes: a worker can have {LOWEST} to {HIGHEST}; to have it fetch nothing, use "
            f"`celery-fleet pause --worker {worker}`",
            USAGE,
        )
    nodes = _nodes(application, worker, hosts, known=not reset)
    doubt = "the number may have been changed all the same: the same command again says so"
    with ask.in_doubt(doubt), ask.bounded("scale", context.bound()):
        found: Mapping[str, Any] = ask.question(
            application,
            "pool_sizes",
            do="reset" if reset else "set",
            nodes=nodes,
            processes=processes,
            by=operator(),
            why=why,
            expected=list(application.workers),
        )
    if found["refused"]:
        raise CommandError(_refusals(worker, found["refused"]), BAD)
    if context.json:
        output.as_json(found)
    else:
        _show(found, processes)
    if reset and not found["changed"]:
        have = ", ".join(str(one["node"]) for one in found["sizes"])
        raise CommandError(f"{', '.join(nodes)} was not scaled; scaled is {have or 'nothing'}", BAD)
    _judge(found, processes)


def _nodes(
    application: Application, worker: str, hosts: Iterable[str], known: bool = True
) -> list[str]:
    """Return the nodes of a worker; with `known`, refuse names that the inventory does not have.

    Raises:
        CommandError: A name is unknown.
    """
    nodes = [node for node in application.workers if node.partition("@")[0] == worker]
    there = [node.partition("@")[2] for node in nodes]
    wanted = list(dict.fromkeys(hosts))
    if known and not nodes:
        names = sorted({node.partition("@")[0] for node in application.workers})
        raise CommandError(
            f"worker {worker}: the inventory has {', '.join(names) or 'none'}", USAGE
        )
    for host in wanted:
        if known and host not in there:
            raise CommandError(f"worker {worker} runs on {', '.join(there)}, not on {host}", USAGE)
    if wanted:
        return [f"{worker}@{host}" for host in wanted]
    # What is left of a worker that has left the inventory can be reset too, host by host.
    return nodes or [f"{worker}@{application.host}"]


def _refusals(worker: str, refused: Mapping[str, str]) -> str:
    silent = [node for node, why in refused.items() if why == "it does not answer"]
    parts = [f"{node} can't be scaled: {why}" for node, why in refused.items()]
    remedy = (
        f"`celery-fleet status` shows what is wrong; --host scales the others of {worker}"
        if silent
        else "set concurrency in the inventory, and run site.yml"
    )
    return f"{'; '.join(parts)}. Nothing was changed: {remedy}"


def _show(found: Mapping[str, Any], processes: int | None) -> None:
    for node in found["changed"]:
        before, after = (found[name].get(node, {}) for name in ("before", "workers"))
        old, new = before.get("processes"), after.get("processes")
        if processes is None:
            inventory = after.get("inventory")
            says = f": the inventory says {inventory}" if inventory else ""
            output.say(f"{node} is no longer scaled{says}.")
        elif new == old:
            output.say(f"{node} has {new} processes.")
        elif new is not None:
            output.say(f"{node}: {old} → {new} processes.")
            if (ending := after.get("ending", 0)) > 0:
                output.say(f"{ending} more end after their task.")
    if found["unheard"]:
        output.say(
            f"The workers could not be told ({found['unheard']}): they notice within half a minute."
        )
    show(found["sizes"])


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a table of all workers that operators have scaled, if there are any."""
    made = [
        (
            one["node"],
            one["processes"],
            one["inventory"],
            output.ago(datetime.fromtimestamp(one["since"], UTC)),
            one["by"],
            one["why"],
        )
        for one in rows
    ]
    if made:
        output.table(
            "Scaled",
            ("worker", "processes", "inventory", "for", "by", "why"),
            made,
            right=("processes", "inventory"),
        )


def _judge(found: Mapping[str, Any], processes: int | None) -> None:
    """Report workers that don't have their number of processes.

    Raises:
        CommandError: There are some.
    """
    wrong = []
    for node in found["changed"] if processes is not None else ():
        reply = found["workers"].get(node, {"later": True})
        if reply.get("later"):
            wrong.append(
                f"{node} has not answered since the change; it follows within half a minute"
            )
        elif "processes" not in reply:
            why = reply.get("why_not") or reply.get("error")
            wrong.append(f"{node} has not obeyed: {why}")
        elif reply["processes"] != processes:
            missing = reply.get("missing")
            more = f"{missing}; it tries again every few seconds" if missing else "it follows"
            wrong.append(f"{node} has {reply['processes']} processes, not {processes} yet: {more}")
    if wrong:
        raise CommandError("; ".join(wrong), BAD)
