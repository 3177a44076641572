"""``celery-fleet tasks``: the tasks that can be run, and their queues."""

from __future__ import annotations

from celery_fleet.cli import output
from celery_fleet.cli.options import Context, command
from celery_fleet.cli.tasks import note_of, queue_of, short_names


@command(
    timeout=False,
    examples=(
        "sudo celery-fleet tasks",
        "sudo celery-fleet tasks --json | jq -r '.[].task'",
    ),
)
def tasks(context: Context) -> None:
    """Show the tasks that the current release registers, each with its queue.

    NAME is the shortest name that `celery-fleet run` accepts. The queue comes from the inventory's routes, or else from
    the application's when the release was built; `!` marks one that neither a worker of the inventory nor a client
    consumes.
    """
    application = context.application
    note = note_of(application)
    settings = application.settings("producer")["celery"]
    consumed = application.consumed
    short = short_names(note["tasks"])
    rows = []
    for name in note["tasks"]:
        queue = queue_of(name, note.get("application") or {}, settings)
        known = None if queue is None else queue in consumed
        rows.append({"task": name, "queue": queue, "name": short[name], "consumed": known})
    if context.json:
        output.as_json(rows)
        return
    output.table(
        f"Tasks of {application.name}, release {application.release.name}",
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
