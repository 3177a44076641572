"""``celery-fleet schedule next``, ``history`` and ``run``."""

from __future__ import annotations

import click

from celery_fleet.cli import journal, output
from celery_fleet.cli.commands.run_ import answered, consumed, say_sent, sending
from celery_fleet.cli.errors import CommandError
from celery_fleet.cli.options import Context, command, count_option
from celery_fleet.cli.schedules import (
    IMPORT,
    all_entries,
    drift_of,
    in_database,
    missed_of,
    text_of,
    zones_of,
)


@command(
    name="next",
    examples=("sudo celery-fleet schedule next", "sudo celery-fleet schedule next -n 50"),
)
@count_option(10, "How many slots.")
def next_(context: Context, count: int) -> None:
    """Show the coming slots of all entries, in order."""
    found = all_entries(context, count)
    coming = sorted(
        (
            (due["utc"], entry["name"], due, entry)
            for entry in found["entries"]
            for due in entry["due"]
        ),
        key=lambda one: one[:2],
    )[:count]
    if context.json:
        slots = [
            {"due": due, **{key: entry[key] for key in ("name", "task", "queue", "schedule")}}
            for _, _, due, entry in coming
        ]
        output.as_json({"timezone": found["timezone"], "slots": slots})
        return
    zones = zones_of(found)
    rows = [
        (
            *(text_of(due, key) for key in zones.values()),
            *(entry[key] for key in ("name", "task", "queue", "schedule")),
        )
        for _, _, due, entry in coming
    ]
    columns = [*(f"due ({name})" for name in zones), "entry", "task", "queue", "schedule"]
    output.table(f"Coming slots, {found['timezone']}", columns, rows)


@command(
    examples=(
        "sudo celery-fleet schedule history",
        "sudo celery-fleet schedule history nightly -n 5",
    )
)
@click.argument("entry", required=False, metavar="[ENTRY]")
@count_option(20, "How many runs.")
def history(context: Context, entry: str | None, count: int) -> None:
    """Show what beat has sent and when, by this host's journal, the latest last.

    For each run: its slot, by the schedule as it is now, how long after that it was sent (drift), and how many slots it
    had missed since the run before. With several hosts for beat, the others' runs are in their own journals.
    """
    application = context.application
    in_database(application)
    if application.log_directory is not None:
        raise CommandError(
            f"{application.name} logs to files, and the history comes from the journal: celery-fleet logs beat"
        )
    sent = journal.fired(application, context.bound(IMPORT))
    chosen = [one for one in sent if entry is None or one[1] == entry]
    # One more of each entry, because an interval's slot depends on the run before.
    times: dict[str, list[float]] = {}
    for when, name, _ in chosen[-count:]:
        times.setdefault(name, []).append(when)
    for when, name, _ in reversed(chosen[:-count]):
        if name in times and times[name][0] >= chosen[-count][0]:
            times[name].insert(0, when)
    found = all_entries(context, 1, times)
    tasks = {(when, name): task for when, name, task in chosen}
    # Of several hosts for beat, another one may have sent what this one has not.
    unknown = {"missed": None} if len(application.in_group("celery_beat")) > 1 else {}
    runs = sorted(
        (
            {"name": name, "task": tasks[when, name], **run, **unknown, "at": when}
            for name, past in found["history"].items()
            for when, run in zip(times[name], past, strict=True)
        ),
        key=lambda run: run["at"],
    )[-count:]
    if context.json:
        output.as_json({"timezone": found["timezone"], "runs": runs})
        return
    if not runs:
        output.say(
            f"The journal of {application.host} has no run{f' of {entry}' if entry else ''}; beat logs them at INFO."
        )
        return
    zone = found["timezone"]
    rows = [
        (
            text_of(run["sent"], "local"),
            run["name"],
            run["task"],
            text_of(run["slot"], "local"),
            drift_of(run),
            missed_of(run),
        )
        for run in runs
    ]
    columns = (f"sent ({zone})", "entry", "task", f"slot ({zone})", "drift", "missed")
    output.table(f"History, {zone}", columns, rows, ("drift", "missed"))


@command(
    name="run",
    examples=(
        "sudo celery-fleet schedule run nightly",
        "sudo celery-fleet schedule run 'Sync All'",
    ),
)
@click.argument("entry")
@click.option("--anyway", is_flag=True, help="Send it even if no worker consumes the queue.")
def run(context: Context, entry: str, anyway: bool) -> None:
    """Send the task of ENTRY once now, as beat does, and print its id.

    It has the entry's arguments and options. In a database, a disabled entry is sent too. When the entry is due next
    stays as it is.
    """
    application = context.application
    component = "schedule" if in_database(application) else "beat"
    request = {"do": "entry", "entry": entry, "consumed": consumed(application, None, anyway)}
    with sending(context, entry, request):
        sent = answered(context, component, request, context.bound(IMPORT))
    if context.json:
        output.as_json(sent)
        return
    say_sent(sent)
