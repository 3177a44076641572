"""Exit codes and one-line errors of the command."""

from __future__ import annotations

import os
import shlex
import sys
from typing import IO, Any

import click

from celery_fleet.cli.output import printable
from celery_fleet.cli.wrapper import named

#: Something is wrong, and the output says what.
BAD = 1
#: The command line is wrong.
USAGE = 2
#: The state is unknown: the broker is down, this user may not read a credential, or nothing is deployed.
UNKNOWN = 3


class CommandError(click.ClickException):
    """An error of one line: what, where, what to do next."""

    def __init__(self, text: str, status: int = UNKNOWN) -> None:
        super().__init__(" ".join(text.split()))
        self.exit_code = status  # type: ignore[misc]  # click reads it from the instance, as documented

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it in the form of all messages of the command."""
        click.echo(printable(f"celery-fleet: {self.message}"), err=True, file=file)


def need_root(what: str, who: str = "root") -> CommandError:
    """Return the error for a user who may not do something, such as `read /etc/x`, that only `who` may do."""
    argv = sys.argv[1:]
    chosen = []
    # sudo removes these variables.
    for variable, option in (("CELERY_FLEET_APP", "--app"), ("CELERY_FLEET_TIMEOUT", "--timeout")):
        value = os.environ.get(variable, "")
        if value and not named(argv, {}, option):
            chosen += [option, value]
    typed = shlex.join(["celery-fleet", *chosen, *argv])
    return CommandError(f"only {who} may {what}: sudo {typed}")
