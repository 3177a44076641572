"""``celery-fleet exec``: any command in the application's environment."""

from __future__ import annotations

import os

import click

from celery_fleet.cli import ask
from celery_fleet.cli.errors import CommandError, need_root
from celery_fleet.cli.options import Context, command


@command(
    name="exec",
    formats=False,
    timeout=False,
    examples=(
        "sudo celery-fleet exec -- python manage.py shell",
        "sudo celery-fleet exec --as operator -- celery inspect active",
        "sudo celery-fleet exec -- python -c 'import os; print(*os.environ)'",
    ),
)
@click.option(
    "--as",
    "component",
    type=click.Choice(["producer", "operator"]),
    default="producer",
    show_default=True,
    help="The credentials it gets: those for sending tasks, or those for inspecting, purging, revoking and control.",
)
@click.option("--release", metavar="ID", help="A release instead of the current one.")
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="Stop it after this time (status 124)."
)
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND...")
def exec_(
    context: Context,
    words: tuple[str, ...],
    component: str,
    release: str | None,
    timeout: float | None,
) -> None:
    """Run COMMAND as the application's user, with exactly its environment and credentials.

    `python`, `celery` and other programs of the virtualenv are the release's own. A terminal, signals and the exit
    status are passed through. 124 is a timeout, 125 a command that could not be started, 126 and 127 are a shell's.
    """
    if os.geteuid() != 0:
        raise need_root("run commands as the application's user")
    own = []
    if release is not None:
        own += ["--release", release]
    if timeout is not None:
        own += ["--timeout", f"{timeout:.15g}"]
    line = [*ask.exec_command(context.application, component, *own), "--", *words]
    try:
        # While Python starts, Ctrl-C would show a traceback.
        with ask.interrupts_held():
            os.execv(line[0], line)  # noqa: S606  # no shell is wanted
    except OSError as error:
        raise CommandError(f"{line[0]} can't be run: {error.strerror}") from None
