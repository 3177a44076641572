"""``celery-fleet schedule``: show when entries ran and are due, run one now, and change a schedule in a database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from celery_fleet.cli import confirm, output, units
from celery_fleet.cli.application import Application, choose
from celery_fleet.cli.commands.schedule_runs import history, next_, run
from celery_fleet.cli.errors import BAD, USAGE, CommandError
from celery_fleet.cli.options import (
    Context,
    GlobalOptions,
    Group,
    command,
    count_option,
    shared,
    with_examples,
)
from celery_fleet.cli.schedules import (
    all_entries,
    answer,
    drift_of,
    in_database,
    missed_of,
    resets_edited,
    text_of,
    zones_of,
)

#: What beat tells systemd while another one sends (:mod:`celery_fleet.beat.standby`, which imports Celery).
STANDING_BY = "standing by"

#: States of a database entry that need no attention.
_WELL = frozenset({"declared", "user's"})

due_option = count_option(1, "How many due times to show for each entry.")
dry_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


HELP = """\
Show when each entry of beat's schedule ran last and is due next, in the application's zone and in UTC.

Drift is how long after its slot it was sent. Missed are its slots since then that are over for more than a minute.
Celery's own schedule classes compute this in the release's Python, from beat's settings. Run it on the host of beat,
because only that host has them.

If the schedule is in the database (celery_beat_scheduler: database), all its entries are shown, each with its state:
declared, edited, disabled or deleted by a user, or a user's own. `sync`, `reset`, `enable-all` and `disable-all` are
for such a schedule.
"""


@click.group(
    cls=Group,
    invoke_without_command=True,
    help=with_examples(
        HELP,
        (
            "sudo celery-fleet schedule",
            "sudo celery-fleet schedule -n 5",
            "sudo celery-fleet schedule next",
            "sudo celery-fleet schedule history",
            "sudo celery-fleet schedule run nightly",
            "sudo celery-fleet --format json schedule | jq -r '.entries[].name'",
            "sudo celery-fleet schedule sync --dry-run",
            "sudo celery-fleet schedule disable-all",
        ),
    ),
)
@shared
@due_option
@click.pass_context
def schedule(current: click.Context, /, count: int, **said: Any) -> None:
    """Show the schedule, or pass the global options before a subcommand's name on to it."""
    given = (current.find_object(GlobalOptions) or GlobalOptions()).and_then(**said)
    if current.invoked_subcommand is None:
        entries(Context(choose(given.app), given.json, given.began, given.timeout), count)
        return
    if current.get_parameter_source("count") is ParameterSource.COMMANDLINE:
        raise CommandError(
            f"-n comes after {current.invoked_subcommand}, if that takes it: see --help", USAGE
        )
    current.obj = given


@command(name="list", examples=("sudo celery-fleet schedule list -n 3",))
@due_option
def list_(context: Context, count: int) -> None:
    """Show the schedule, like `schedule` without a command."""
    entries(context, count)


def entries(context: Context, count: int) -> None:
    """Show when all entries ran last and are due."""
    found = all_entries(context, count)
    show(found, context.json)
    if not context.json and stands_by(context.application):
        output.say(
            "The beat of this host stands by. When entries ran last is known on the host of the beat that sends:\n"
            "`systemctl status` says which that is."
        )
    if any(entry["error"] for entry in found["entries"]):
        raise click.exceptions.Exit(BAD)


def stands_by(application: Application) -> bool:
    """Return whether this host's beat is one of several, and another one sends."""
    try:
        found = units.show([f"{application.name}-beat.service"])
    except CommandError:  # the schedule itself is known
        return False
    return any(beat.status.startswith(STANDING_BY) for beat in found)


def show(found: Mapping[str, Any], as_json: bool) -> None:
    """Print the entries."""
    if as_json:
        output.as_json({key: found[key] for key in ("timezone", "entries")})
        return
    zone = found["timezone"]
    zones = zones_of(found)
    stated = any("state" in entry for entry in found["entries"])
    rows: list[tuple[Any, ...]] = []
    for entry in found["entries"]:
        about: tuple[Any, ...] = (entry["name"], entry["task"], entry["queue"], entry["schedule"])
        if stated:
            about = (*about, (entry["state"], entry["state"] in _WELL))
        about = (*about, text_of(entry.get("last"), "local"), drift_of(entry), missed_of(entry))
        if not entry["due"]:
            # A disabled entry is not due; an enabled one without a due time never is.
            never = "-" if entry.get("enabled") is False else "never"
            unknown = (entry["error"] or never, entry["error"] is None)
            rows.append((*about, unknown, *[None] * (len(zones) - 1)))
        for number, due in enumerate(entry["due"]):
            times = (text_of(due, name) for name in zones.values())
            rows.append((*(about if number == 0 else ("",) * len(about)), *times))
    columns = ["entry", "task", "queue", "schedule", *(["state"] if stated else [])]
    columns += [f"last ({zone})", "drift", "missed", *(f"due ({name})" for name in zones)]
    output.table(f"Schedule, {zone}", columns, rows, ("drift", "missed"))
    for entry in found["entries"]:
        if entry["due"] and entry["error"]:
            output.say(f"{entry['name']}: {entry['error']}")


def change(
    context: Context, words: Sequence[str], title: str, *, dry: bool, question: str | None
) -> None:
    """Ask if a question is given, then make the changes and report them.

    Raises:
        CommandError: The schedule is not in a database, or there is no terminal to ask on.
    """
    application = context.application
    if not in_database(application):
        raise CommandError(
            f"the schedule of {application.name} is not in a database (celery_beat_scheduler is not database): beat has"
            " the entries that the inventory and the code declare",
            USAGE,
        )
    if not (application.directory / "credentials" / "schedule.json").is_file():
        raise CommandError("the declared entries are not on this host yet; run site.yml")
    if question is not None and not dry:
        coming = answer(context, *words, "--dry-run")
        if coming["items"]:
            # Standard output is kept free for JSON.
            for item in coming["items"]:
                output.say(_line(item), err=True)
            confirm.need_terminal()
            confirm.agree(question, "nothing was changed")
    found = answer(context, *words, *(["--dry-run"] if dry else []))
    if context.json:
        output.as_json({"dry_run": dry, "items": found["items"], "notes": found["notes"]})
        return
    rows = [(item["entry"], item["action"], "; ".join(item["why"])) for item in found["items"]]
    if rows:
        output.table(f"{title}, not done yet" if dry else title, ("entry", "what", "why"), rows)
    else:
        output.say("Nothing to do.")
    for note in found["notes"]:
        output.say(note)


def _line(item: Mapping[str, Any]) -> str:
    return f"{item['entry']}: {item['action']} ({'; '.join(item['why'])})"


@command(
    examples=(
        "sudo celery-fleet schedule sync --dry-run",
        "sudo celery-fleet schedule sync",
        "sudo celery-fleet schedule sync --reset",
    )
)
@dry_option
@yes_option
@click.option("--reset", is_flag=True, help="Also reset what users edited, disabled or deleted.")
def sync(context: Context, dry_run: bool, yes: bool, reset: bool) -> None:
    """Write the declared entries into the database, as site.yml does.

    Entries that users made are never touched. celery_beat_schedule_on_edit says whether users' changes to declared
    entries are kept or reset.
    """
    words = ["sync", *(["--reset"] if reset else [])]
    asks = not yes and (reset or resets_edited(context.application))
    question = "Reset these?" if asks else None
    change(context, words, "Synchronised", dry=dry_run, question=question)


@command(
    examples=(
        "sudo celery-fleet schedule reset 'Sync All Suppliers'",
        "sudo celery-fleet schedule reset --dry-run",
    )
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@dry_option
@yes_option
def reset(context: Context, names: Sequence[str], dry_run: bool, yes: bool) -> None:
    """Restore declared entries that users changed or deleted; without NAME all of them."""
    question = None if yes else "Reset these?"
    # Attach the names, because they may look like options.
    words = ["reset", *(f"--name={name}" for name in names)]
    change(context, words, "Reset", dry=dry_run, question=question)


def _switch(name: str, word: str, text: str) -> click.Command:
    def switch(context: Context, dry_run: bool, yes: bool) -> None:
        question = None if yes else f"{word.capitalize()} these?"
        change(context, [word], f"{word.capitalize()}d", dry=dry_run, question=question)

    switch.__doc__ = text
    decorate: Callable[[Callable[..., Any]], click.Command] = command(
        name=name, examples=(f"sudo celery-fleet schedule {name}",)
    )
    return decorate(dry_option(yes_option(switch)))


enable_all = _switch(
    "enable-all",
    "enable",
    "Enable all declared entries.\n\nEntries that users made are not touched.",
)
disable_all = _switch(
    "disable-all",
    "disable",
    "Disable all declared entries.\n\nEntries that users made are not touched. The next site.yml leaves them disabled,"
    " unless celery_beat_schedule_on_edit is reset.",
)

for one in (list_, next_, history, run, sync, reset, enable_all, disable_all):
    schedule.add_command(one)
