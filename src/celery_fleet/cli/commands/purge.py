"""``celery-fleet purge``: delete the tasks that wait in a queue."""

from __future__ import annotations

import click

from celery_fleet.cli import ask, complete, confirm, output
from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError
from celery_fleet.cli.options import Context, command
from celery_fleet.common.text import count

#: Redis's error if a user has no right to a key; Redis 8 and Valkey write it with a capital letter.
_REFUSED = "no permissions"


def length(application: Application, queue: str) -> int:
    """Return how many tasks wait in a queue.

    Raises:
        CommandError: Neither the inventory nor the broker has it.
    """
    known = queue in application.queues
    names = f"the inventory has {', '.join(application.queues) or 'none'}"
    try:
        found: dict[str, int] = ask.question(application, "lengths", queues=[queue])
    except CommandError as error:
        if known or _REFUSED not in error.message.lower():
            raise
        raise CommandError(
            f"queue {queue}: {names}, and the operator may not access others", USAGE
        ) from None
    if not known and not found[queue]:
        raise CommandError(f"queue {queue}: {names}, and the broker has no tasks in it", USAGE)
    return found[queue]


@command(
    examples=(
        "sudo celery-fleet purge discounts",
        "sudo celery-fleet purge discounts --yes",
    ),
)
@click.argument("queue", shell_complete=complete.queue)
@click.option("--yes", is_flag=True, help="Don't ask.")
def purge(context: Context, queue: str, yes: bool) -> None:
    """Delete all tasks that wait in QUEUE, of every priority; they are lost.

    Tasks that workers have already fetched are not in it: see `celery-fleet reserved` and `celery-fleet revoke`.
    """
    application = context.application
    if not yes and not confirm.has_terminal():
        if queue not in application.queues:
            # Report an unknown queue first.
            with context.within("purge"):
                length(application, queue)
        confirm.need_terminal()
    with context.within("purge"):
        waiting = length(application, queue)
        if yes or not waiting:
            purged = _purge(application, queue) if waiting else 0
            _tell(context, queue, purged)
            return
    # Ask without a time limit.
    confirm.agree(f"Delete {count(waiting, 'task')} of the queue {queue}?", "nothing was deleted")
    with ask.bounded("purge", context.bound()):
        purged = _purge(application, queue)
    _tell(context, queue, purged)


def _purge(application: Application, queue: str) -> int:
    with ask.in_doubt(f"tasks of {queue} may have been deleted all the same"):
        return int(ask.question(application, "purge", queue=queue)["purged"])


def _tell(context: Context, queue: str, purged: int) -> None:
    if context.json:
        output.as_json({"queue": queue, "purged": purged})
    else:
        output.say(f"{count(purged, 'task')} deleted from {queue}.")
