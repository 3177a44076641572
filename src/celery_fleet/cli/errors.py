"""How a command ends: its exit codes, and errors that are one line."""

from __future__ import annotations

import os
import shlex
import sys
from typing import IO, Any

import click

from celery_fleet.cli.wrapper import named

#: All well.
OK = 0
#: Something is wrong, and the output says what.
BAD = 1
#: The command line is wrong.
USAGE = 2
#: Nobody could be asked: the broker is down, a credential is not for this user, nothing is deployed.
UNKNOWN = 3


class CommandError(click.ClickException):
    """An error of one line: what, where, what to do next."""

    def __init__(self, text: str, status: int = UNKNOWN) -> None:
        super().__init__(" ".join(text.split()))
        self.exit_code = status  # type: ignore[misc]  # click reads it of the instance, as documented

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as all messages of the command look."""
        from celery_fleet.cli.output import printable  # rich takes its time to load

        click.echo(printable(f"celery-fleet: {self.message}"), err=True, file=file)


def need_root(path: object, who: str = "root") -> CommandError:
    """What to say to whoever may not read a file that root alone reads, or root and `who` else."""
    argv = sys.argv[1:]
    chosen = []
    # sudo takes the variables away.
    for variable, option in (("CELERY_FLEET_APP", "--app"), ("CELERY_FLEET_TIMEOUT", "--timeout")):
        value = os.environ.get(variable, "")
        if value and not named(argv, {}, option):
            chosen += [option, value]
    typed = shlex.join(["celery-fleet", *chosen, *argv])
    return CommandError(f"only {who} may read {path}: sudo {typed}")
