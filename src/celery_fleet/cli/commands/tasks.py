"""``celery-fleet tasks``: what can be run, and where it goes."""

from __future__ import annotations

import os

from celery_fleet.cli import ask, output
from celery_fleet.cli.errors import CommandError, need_root
from celery_fleet.cli.options import Context, command
from celery_fleet.cli.tasks import short_names

#: The part of the bound that the release's Python gets.
ASK = 8.5


@command(
    bound=True,
    examples=(
        "sudo celery-fleet tasks",
        "sudo celery-fleet --format json tasks | jq -r '.[].task'",
    ),
)
def tasks(context: Context) -> None:
    """The tasks that the current release registers, each with the queue that it goes to.

    NAME is the shortest one that `celery-fleet run` takes for it. The queue is what a producer's settings and the
    application's own routes say; `!` marks one that no worker of the inventory consumes.
    """
    application = context.application
    release = application.release
    if os.geteuid() != 0:
        raise need_root(application.directory / "credentials")
    found = ask.in_release(
        application,
        "producer",
        ["python", "-m", "celery_fleet.calling"],
        min(ASK, context.left() - 1),
        {"do": "list"},
    )
    if not found["ok"]:
        raise CommandError(found["error"])
    consumed = application.consumed
    short = short_names(one["task"] for one in found["answer"])
    rows = [
        {
            **one,
            "name": short[one["task"]],
            "consumed": None if one["queue"] is None else one["queue"] in consumed,
        }
        for one in found["answer"]
    ]
    if context.json:
        output.as_json(rows)
        return
    output.table(
        f"Tasks of {application.name}, release {release.name}",
        ("name", "task", "queue"),
        [
            (
                row["name"],
                row["task"],
                (f"{row['queue']} !", False) if row["consumed"] is False else row["queue"],
            )
            for row in rows
        ],
    )
