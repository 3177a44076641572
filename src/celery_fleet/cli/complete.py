"""Complete names in the shell, from files on the host only; no server or worker is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import click

from celery_fleet.cli import tasks
from celery_fleet.cli.application import Application
from celery_fleet.cli.options import chosen_application

Completion = Callable[[click.Context, click.Parameter, str], list[str]]

# Bash gets a name unquoted, and the application's code names its tasks: nothing in it may have a meaning for a shell.
_PLAIN = re.compile(r"[\w.:@,+-]+", re.ASCII)


def listed(names: Callable[[Application], Iterable[str]]) -> Completion:
    """Return the completion of names that a function finds for the application."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        del parameter
        application = chosen_application(context)
        return _beginning(typed, names(application) if application else ())

    return complete


def _registered(application: Application) -> list[str]:
    try:
        return tasks.registered(application)
    except click.ClickException:
        return []


def _with_short(names: list[str]) -> list[str]:
    return [*tasks.short_names(names).values(), *names]


#: The release's tasks, with their short names first.
task = listed(lambda application: _with_short(_registered(application)))
#: The release's tasks by their full names.
registered = listed(_registered)
queue = listed(lambda application: application.queues)
client = listed(lambda application: application.clients)
#: The node names of the inventory's workers.
node = listed(lambda application: application.workers)
#: The names of workers, and their node names.
worker = listed(
    lambda application: [
        *(name.partition("@")[0] for name in application.workers),
        *application.workers,
    ]
)
#: The names of workers.
worker_name = listed(lambda application: [name.partition("@")[0] for name in application.workers])
#: The hosts of workers.
host = listed(lambda application: [name.partition("@")[2] for name in application.workers])


def workers(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the last name in a comma-separated list of workers."""
    del parameter
    application = chosen_application(context)
    before, comma, last = typed.rpartition(",")
    names = [name.partition("@")[0] for name in (application.workers if application else ())]
    return [f"{before}{comma}{name}" for name in _beginning(last, names)]


def _beginning(typed: str, names: Iterable[str]) -> list[str]:
    return [
        name for name in dict.fromkeys(names) if name.startswith(typed) and _PLAIN.fullmatch(name)
    ]
