"""``celery-fleet logs``: the journal of the application's units, or their log files."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys

import click

from celery_fleet.cli.application import Application
from celery_fleet.cli.commands.results import checked_id
from celery_fleet.cli.errors import BAD, USAGE, CommandError, need_root
from celery_fleet.cli.options import Context, chosen_application, command
from celery_fleet.cli.output import say

#: Directories of journald's files.
JOURNALS = ("/var/log/journal", "/run/log/journal")

PARTS = ("worker", "beat", "flower", "web", "broker", "results", "cache", "sentinel")


def workers(application: Application) -> list[str]:
    """Return the names of this host's workers."""
    prefix = f"{application.name}-worker@"
    return [
        unit.removeprefix(prefix).removesuffix(".service")
        for unit in application.units
        if unit.startswith(prefix)
    ]


def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete parts, and after `worker` the names of workers."""
    del parameter
    application = chosen_application(context)
    before = context.params.get("what") or ()
    found = workers(application) if application and "worker" in before else list(PARTS)
    return [name for name in found if name.startswith(typed)]


def wanted(application: Application, words: tuple[str, ...]) -> list[str]:
    """Return the chosen units.

    Raises:
        CommandError: This host has none of them.
    """
    if not words:
        return [unit for unit in application.units if not unit.endswith(".target")]
    part, names = words[0], words[1:]
    app = application.name
    if part not in PARTS:
        raise CommandError(f"logs {part}: use one of {', '.join(PARTS)}", USAGE)
    if part != "worker" and names:
        raise CommandError(f"logs {part} takes no {' '.join(names)}", USAGE)
    if part == "worker":
        have = workers(application)
        for name in names:
            if name not in have:
                raise CommandError(
                    f"{application.host} has no worker {name} of {app}; {application.on(name)}",
                    USAGE,
                )
        units = [f"{app}-worker@{name}.service" for name in names or have]
    elif part in ("broker", "results", "cache"):
        units = [f"redis@{app}-{part}.service"]
    else:
        units = [f"{app}-{part}.service"]
    missing = [unit for unit in units if unit not in application.units]
    if missing or not units:
        groups = {"worker": "celery_workers", "beat": "celery_beat", "web": "celery_producers"}
        hosts = application.in_group(groups.get(part, "flower" if part == "flower" else "redis"))
        if part == "sentinel":
            # Only several hosts of Redis have Sentinels.
            hosts = [host for host, _ in application.redis["broker"].sentinels]
        others = ", ".join(host for host in hosts if host != application.host) or "no host"
        raise CommandError(f"{application.host} has no {part} of {app}; it is on {others}", USAGE)
    return units


def log_files(application: Application, units: list[str]) -> list[str]:
    """Return the log files of some units; none for units that log to the journal."""
    directory = application.log_directory
    if directory is None:
        return []
    found = []
    for unit in units:
        name = unit.removesuffix(".service").removeprefix(f"{application.name}-")
        if name.startswith("worker@"):
            found.append(str(directory / f"celery_{name.removeprefix('worker@')}.log"))
        elif name == "beat":
            found.append(str(directory / "celery_beat.log"))
        elif name == "flower":
            # Flower runs as another user than the application.
            found.append(f"{directory}-flower/flower.log")
    return found


def left_out(application: Application, units: list[str]) -> str | None:
    """Say which units have no log files and how to see their logs; None if this is true for none or all of them."""
    others = [unit for unit in units if not log_files(application, [unit])]
    if len(others) in (0, len(units)):
        return None
    ways = []
    for unit in others:
        name = unit.removesuffix(".service")
        part = name.removeprefix(f"{application.name}-").removeprefix(f"redis@{application.name}-")
        ways.append(f"celery-fleet logs {part}" if part in PARTS else f"journalctl -u {name}")
    names = ", ".join(unit.removesuffix(".service") for unit in others)
    return f"{names} left out, because their logs are in the journal: {', '.join(ways)}"


def line(
    application: Application,
    words: tuple[str, ...],
    follow: bool,
    number: int | None,
    since: str | None,
    task: str | None = None,
) -> list[str]:
    """Return the command line of the program that shows the logs; with `task`, those of the task with this id.

    Raises:
        CommandError: As :func:`wanted`; or an option does not work with files.
    """
    units = wanted(application, words)
    files = log_files(application, units)
    if files and task is not None:
        if follow or number is not None or since is not None:
            raise CommandError(
                f"--task searches all log files of {application.name}, so it takes no -f, -n or --since",
                USAGE,
            )
        rotated = sorted(
            (path for file in files for path in glob.glob(f"{glob.escape(file)}*")),
            key=_changed,
        )
        return [
            "zgrep",
            "--no-filename",
            # After a power loss, a file may have bytes that are no text.
            "--text",
            "--fixed-strings",
            "--regexp",
            task,
            "--",
            *(rotated or files),
        ]
    if files:
        if since is not None:
            raise CommandError(
                f"--since only works with the journal, and {application.name} logs to files: {' '.join(files)}",
                USAGE,
            )
        # Follow the name: the rotation renames a file, and the process starts a new one.
        follows = ["--follow=name", "--retry"] if follow else []
        return ["tail", f"--lines={number or 200}", *follows, *files]
    shown = ["--follow"] if follow else []
    shown += [f"--lines={number}"] if number is not None else []
    shown += [f"--since={since}"] if since is not None else []
    if number is None and since is None and task is None:
        shown.append("--lines=200")
    pager = [] if follow else ["--no-pager"]
    matches = [f"--unit={unit}" for unit in units]
    matches += [f"CELERY_TASK_ID={task}"] if task is not None else []
    return ["journalctl", *pager, *shown, *matches]


def _changed(path: str) -> float:
    """Return when a file was changed; 0 if a rotation has just moved it."""
    try:
        return os.path.getmtime(path)
    except OSError:
        return 0.0


def require_readable(words: list[str]) -> None:
    """Refuse to show logs that this user may not read: journalctl would only say that there are no entries.

    Raises:
        CommandError: This user may not read the logs.
    """
    if os.geteuid() == 0:
        return
    if words[0] != "journalctl":
        closed = [word for word in words if word.startswith("/") and not os.access(word, os.R_OK)]
        if closed:
            raise need_root(f"read {closed[0]}")
        return
    # A journal that is only in memory is in a directory that others can't read either.
    places = [path for place in JOURNALS for path in glob.glob(f"{place}/*")]
    files = [path for place in places for path in glob.glob(f"{place}/system*.journal")]
    if places and not any(os.access(path, os.R_OK) for path in files):
        raise need_root("read the journal", "root and the group systemd-journal")


@command(
    formats=False,
    timeout=False,
    examples=(
        "celery-fleet logs",
        "celery-fleet logs worker discounts -f",
        "celery-fleet logs beat -n 50",
        "celery-fleet logs web --since -1h",
        "celery-fleet logs --task 6c3f0b52-8f0f-4a5e-9d2a-3f2f6a0a7d11",
    ),
)
@click.argument("what", nargs=-1, metavar="[PART [WORKER]...]", shell_complete=complete)
@click.option("-f", "--follow", is_flag=True, help="Keep showing new lines.")
@click.option(
    "-n", "--lines", "number", type=click.IntRange(1), help="How many lines; 200 by default."
)
@click.option(
    "--since",
    metavar="TIME",
    help="Only lines since TIME, as journalctl takes it: '-1h', '2026-01-02 03:00'.",
)
@click.option(
    "--task", metavar="ID", help="Only what workers on this host have logged about a task."
)
def logs(
    context: Context,
    what: tuple[str, ...],
    follow: bool,
    number: int | None,
    since: str | None,
    task: str | None,
) -> None:
    """Show the logs of this host's units, or of PART.

    PART is worker [NAME], beat, flower, web, broker, results, cache or sentinel.
    """
    if task is not None:
        task = checked_id(task)
    words = line(context.application, what, follow, number, since, task)
    require_readable(words)
    path = shutil.which(words[0], path="/usr/local/bin:/usr/bin:/bin")
    if path is None:
        raise CommandError(f"{words[0]} is not on this host")
    note = left_out(context.application, wanted(context.application, what))
    if note:
        click.echo(f"celery-fleet: {note}", err=True)
    if words[0] == "journalctl" or (task is None and not sys.stdout.isatty()):
        os.execv(path, words)  # noqa: S606  # no shell is wanted
    show = printed if sys.stdout.isatty() else subprocess.call
    status = show([path, *words[1:]])
    if task is not None and status == 1:
        host = context.application.host
        raise CommandError(f"no log file of {host} has it; other hosts have their own", BAD)
    raise click.exceptions.Exit(status if status >= 0 else 128 - status)


def printed(words: list[str]) -> int:
    """Print a program's output without control characters, which journalctl leaves out itself; return its status."""
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    ) as program:
        try:
            for row in program.stdout or ():
                say(row.rstrip("\n"))
        except KeyboardInterrupt:
            program.terminate()
    return program.returncode
