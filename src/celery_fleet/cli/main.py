"""The command line of ``celery-fleet``."""

from __future__ import annotations

import io
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import click

from celery_fleet import __version__
from celery_fleet.cli.commands import (
    client,
    completion,
    dead_letters,
    exec_,
    health,
    help_,
    inspect,
    logs,
    monitor,
    pauses,
    purge,
    redis,
    releases,
    results,
    run_,
    scale,
    schedule,
    services,
    status,
    task,
    tasks,
)
from celery_fleet.cli.errors import UNKNOWN
from celery_fleet.cli.options import GlobalOptions, Group, shared, with_examples
from celery_fleet.common.identity import current


class Whole(Group):
    """The command line, with its commands grouped by purpose."""

    sections: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "Look": (
                *("status", "health", "monitor", "tasks", "task", "result", "schedule"),
                *("releases", "logs"),
            ),
            "Ask the workers": ("inspect", *inspect.SHORT_FORMS),
            "Act": (
                *("run", "revoke", "purge", "dead-letters", "pause", "resume", "scale"),
                *("start", "stop", "restart"),
            ),
            "Other tools": ("exec", "redis", "client", "completion", "help"),
        }
    )


@click.group(
    cls=Whole,
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
            "sudo celery-fleet task 6f1e0c5a-1b2c-4d3e-8f90-a1b2c3d4e5f6",
            "celery-fleet logs worker discounts -f",
        ),
    ),
    epilog="Exit status: 0 all is well, 1 something is wrong, 2 wrong usage, 3 the state could not be found out.",
)
@click.version_option(__version__, prog_name="celery-fleet")
@partial(shared, first=True)
@click.pass_context
def cli(context: click.Context, /, **said: Any) -> None:
    """Look at a Celery fleet from one of its hosts, and run things in it."""
    context.obj = (context.obj or GlobalOptions()).and_then(**said)


for found in (
    status.status,
    health.health,
    monitor.monitor,
    tasks.tasks,
    run_.run,
    task.task,
    results.result,
    results.revoke,
    inspect.inspect,
    *inspect.SHORT,
    purge.purge,
    dead_letters.dead_letters,
    releases.releases,
    pauses.pause,
    pauses.resume,
    scale.scale,
    *services.VERBS,
    exec_.exec_,
    schedule.schedule,
    redis.redis,
    client.client,
    logs.logs,
    completion.completion,
    help_.help_,
):
    cli.add_command(found)


def run() -> None:
    """Run the command line; a user's mistake never shows a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # In a locale without UTF-8 a character such as an arrow must not end a command that has changed something.
            stream.reconfigure(errors="backslashreplace")
    try:
        # Python's own start is part of the time that the user waits.
        age = time.time() - current().started
        options = GlobalOptions(began=time.monotonic() - max(age, 0.0))
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main(prog_name="celery-fleet", obj=options)
    except BrokenPipeError:
        # Standard error is closed; click itself handles a closed standard output.
        sys.stderr.close()
        sys.exit(UNKNOWN)
