"""``celery-fleet dead-letters``: list, replay and drop messages that could not be run or failed for good."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from celery_fleet.cli import ask, complete, confirm, output
from celery_fleet.cli.errors import BAD, CommandError
from celery_fleet.cli.options import Context, GlobalOptions, Group, command, shared, with_examples
from celery_fleet.common.text import count
from celery_fleet.delivery.dead_letters.letters import REASONS

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])\Z")


class Age(click.ParamType[float]):
    """A time span such as ``90s``, ``15m``, ``2h``, ``7d`` or ``1w``, converted to seconds."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse a text that is not a time span."""
        if isinstance(value, float):
            return value
        found = _AGE.match(str(value))
        if found is None:
            self.fail(f"{value} is not an age: write it as in 90s, 15m, 2h, 7d or 1w.", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


def choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose dead letters."""
    options = (
        click.option("--queue", shell_complete=complete.queue, help="Only from this queue."),
        click.option(
            "--task",
            shell_complete=complete.registered,
            help="Only of this task, or of tasks that match a pattern such as 'shop.*'.",
        ),
        click.option("--reason", type=click.Choice(REASONS), help="Only with this reason."),
        click.option(
            "--older-than",
            "older",
            type=Age(),
            metavar="AGE",
            help="Last seen longer ago than this, such as 2h or 7d.",
        ),
        click.option(
            "--newer-than",
            "newer",
            type=Age(),
            metavar="AGE",
            help="Last seen more recently than this.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


payload_option = click.option(
    "--payload", is_flag=True, help="Also show the messages' content: arguments, headers, body."
)
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")
ids_argument = click.argument("ids", nargs=-1, metavar="[ID]...")


@click.group(
    name="dead-letters",
    cls=Group,
    help=with_examples(
        "Messages that could not be run, and those of tasks that failed for good, with the reason.\n\n"
        "unknown: no worker knew the task for celery_worker_unknown_task_retention. undecodable, malformed, invalid:"
        " it is no message of a task that Celery can read. poison: one process after another died of it. failed: it"
        " failed after its last retry (celery_worker_max_failed_dead_letters).",
        (
            "sudo celery-fleet dead-letters list",
            "sudo celery-fleet dead-letters list --reason unknown --newer-than 1d",
            "sudo celery-fleet dead-letters show 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6 --payload",
            "sudo celery-fleet dead-letters replay --task 'shop.*'",
            "sudo celery-fleet dead-letters drop --older-than 30d --yes",
        ),
    ),
)
@shared
@click.pass_context
def dead_letters(current: click.Context, /, **said: Any) -> None:
    """Pass the options before a subcommand's name on to it."""
    current.obj = (current.find_object(GlobalOptions) or GlobalOptions()).and_then(**said)


def chosen(context: Context, payload: bool = False, **choice: Any) -> list[dict[str, Any]]:
    """Return the chosen letters, the one that was last seen longest ago first."""
    answer = ask.question(
        context.application, "dead_letters", do="list", choose=choice, payload=payload
    )
    return list(answer["letters"])


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def show_table(found: Iterable[Mapping[str, Any]]) -> None:
    """Print some letters, one on each line."""
    now = datetime.now(UTC)
    rows = [
        (
            one["id"],
            one["task"],
            one["queue"],
            one["reason"],
            one["count"],
            output.ago(_moment(one["last_seen"]), now),
            one["node"],
        )
        for one in found
    ]
    if not rows:
        output.say("No dead letters.")
        return
    output.table(
        count(len(rows), "dead letter"),
        ("id", "task", "queue", "reason", "times", "last seen", "node"),
        rows,
        right=("times",),
    )


def show_letter(one: Mapping[str, Any]) -> None:
    """Print everything that is known about one letter."""
    output.say(output.printable(one["id"]))
    lines = {
        "task": one["task"] or "-",
        "queue": one["queue"],
        "reason": f"{one['reason']}: {one['detail']}",
        "node": one["node"],
        "first seen": output.utc(_moment(one["first_seen"])),
        "last seen": output.utc(_moment(one["last_seen"])),
        "times": one["count"],
        "bytes": one["size"],
        **one.get("payload", {}),
    }
    for name, value in lines.items():
        output.say(f"  {name + ':':12} {output.printable(value)}")


@command(
    name="list",
    examples=(
        "sudo celery-fleet dead-letters list",
        "sudo celery-fleet dead-letters list --queue mail --older-than 2h",
        "sudo celery-fleet --format json dead-letters list | jq -r '.[].task' | sort | uniq -c",
    ),
)
@ids_argument
@choosing
@payload_option
def list_(context: Context, ids: Sequence[str], payload: bool, **choice: Any) -> None:
    """List the dead letters, the one that was last seen longest ago first; all, or those that fit every option.

    The content of their messages is only shown with --payload.
    """
    # Only the question is limited: a pager reads as slowly as its user.
    with context.within("list"):
        found = chosen(context, payload, ids=ids, **choice)
    if context.json:
        output.as_json(found)
    elif payload and found:
        for one in found:
            show_letter(one)
    else:
        show_table(found)


@command(
    examples=(
        "sudo celery-fleet dead-letters show 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
        "sudo celery-fleet dead-letters show 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6 --payload",
    ),
)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@payload_option
def show(context: Context, ids: Sequence[str], payload: bool) -> None:
    """Show everything that is known about some dead letters; the content of their messages only with --payload.

    Status 1: there is no dead letter with such an id.
    """
    with context.within("show"):
        found = chosen(context, payload, ids=ids)
    if context.json:
        output.as_json(found)
    else:
        for one in found:
            show_letter(one)
    missing = [one for one in dict.fromkeys(ids) if one not in {known["id"] for known in found}]
    if missing:
        raise CommandError(
            f"no dead letter has the id {', '.join(map(output.printable, missing))}; see"
            " celery-fleet dead-letters list",
            BAD,
        )


def change(
    context: Context, do: str, done: str, ids: Sequence[str], yes: bool, choice: Mapping[str, Any]
) -> None:
    """Say how many letters are chosen, ask, and change only these.

    Raises:
        CommandError: The user did not agree, or not everything could be done.
    """
    if not yes:
        confirm.need_terminal()
    with context.within(f"dead-letters {do}"):
        found = chosen(context, ids=ids, **choice)
        if yes or not found:
            _tell(context, done, _changed(context, do, found))
            return
    # Ask without a time limit.
    confirm.agree(f"{do.capitalize()} {count(len(found), 'dead letter')}?", f"nothing was {done}")
    with ask.bounded(f"dead-letters {do}", context.bound()):
        answer = _changed(context, do, found)
    _tell(context, done, answer)


def _changed(context: Context, do: str, found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if not found:
        return {"done": 0, "gone": 0, "left": 0, "refused": 0, "reasons": []}
    seen = {one["id"]: one["last_seen"] for one in found}
    with ask.in_doubt("`celery-fleet dead-letters` shows those that are left"):
        answer: Mapping[str, Any] = ask.question(
            context.application, "dead_letters", do=do, choose={"ids": list(seen)}, last_seen=seen
        )
    return answer


def _tell(context: Context, done: str, answer: Mapping[str, Any]) -> None:
    if context.json:
        output.as_json(answer)
    else:
        gone = f"; {answer['gone']} had gone or come back meanwhile" if answer["gone"] else ""
        output.say(f"{count(answer['done'], 'dead letter')} {done}{gone}.")
    if answer["refused"]:
        raise CommandError(
            f"{count(answer['refused'], 'dead letter')} not {done}: Redis refused it ({'; '.join(answer['reasons'])})",
            BAD,
        )
    if answer["left"]:
        raise CommandError(
            f"the time ran out with {count(answer['left'], 'dead letter')} left: run the same command again",
            BAD,
        )


@command(
    examples=(
        "sudo celery-fleet dead-letters replay 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
        "sudo celery-fleet dead-letters replay --reason unknown --queue mail",
        "sudo celery-fleet dead-letters replay --task 'shop.*' --yes",
    ),
)
@ids_argument
@choosing
@yes_option
def replay(context: Context, ids: Sequence[str], yes: bool, **choice: Any) -> None:
    """Send dead letters to their queues again, behind all waiting tasks; without options all of them.

    Each is sent only once, even if others run the same command at the same time. It asks first.
    """
    change(context, "replay", "replayed", ids, yes, choice)


@command(
    examples=(
        "sudo celery-fleet dead-letters drop 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
        "sudo celery-fleet dead-letters drop --reason undecodable --older-than 7d --yes",
    ),
)
@ids_argument
@choosing
@yes_option
def drop(context: Context, ids: Sequence[str], yes: bool, **choice: Any) -> None:
    """Delete dead letters for good; without options all of them. It asks first."""
    change(context, "drop", "dropped", ids, yes, choice)


for one in (list_, show, replay, drop):
    dead_letters.add_command(one)
