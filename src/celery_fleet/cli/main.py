"""The command line of ``celery-fleet``."""

from __future__ import annotations

import sys
import time

import click

from celery_fleet import __version__
from celery_fleet.cli.commands import (
    completion,
    dead_letters,
    exec_,
    health,
    inspect,
    logs,
    monitor,
    purge,
    redis,
    results,
    run_,
    schedule,
    services,
    status,
    tasks,
)
from celery_fleet.cli.errors import UNKNOWN
from celery_fleet.cli.options import Given, complete_app, with_examples
from celery_fleet.identity import current


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=with_examples(
        "Look at a Celery fleet from one of its hosts, and run things in it.",
        (
            "celery-fleet status",
            "sudo celery-fleet run system_health_check",
            "sudo celery-fleet monitor --duration 60",
            "sudo celery-fleet exec -- python manage.py shell",
            "sudo celery-fleet inspect active",
            "sudo celery-fleet redis -- ping",
            "celery-fleet logs worker discounts -f",
        ),
    ),
    epilog="Exit status: 0 all is well, 1 something is wrong, 2 the command line is, 3 nobody could be asked.",
)
@click.version_option(__version__, prog_name="celery-fleet")
@click.option(
    "--app",
    metavar="NAME",
    envvar="CELERY_FLEET_APP",
    shell_complete=complete_app,
    help="The application; needed where a host has several.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    help="A table (default), or JSON for scripts.",
)
@click.pass_context
def cli(context: click.Context, app: str | None, format_: str | None) -> None:
    """Look at a Celery fleet from one of its hosts, and run things in it."""
    given = context.obj or Given()
    context.obj = Given(app, format_, given.began)


for found in (
    status.status,
    health.health,
    monitor.monitor,
    tasks.tasks,
    run_.run,
    results.result,
    results.revoke,
    inspect.inspect,
    *inspect.SHORT,
    purge.purge,
    dead_letters.dead_letters,
    *services.VERBS,
    exec_.exec_,
    schedule.schedule,
    redis.redis,
    logs.logs,
    completion.completion,
):
    cli.add_command(found)


def run() -> None:
    """Run the command line; nobody who made a mistake is shown a traceback."""
    try:
        # Python's own start is a part of what somebody waits for.
        age = time.time() - current().started
        cli.main(prog_name="celery-fleet", obj=Given(began=time.monotonic() - max(age, 0.0)))
    except BrokenPipeError:
        # Whoever read the output (head, less) has enough.
        sys.stderr.close()
        sys.exit(UNKNOWN)
