"""Complete names in the shell, from files on the host only; no server or worker is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from celery_fleet.cli import tasks
from celery_fleet.cli.application import Application
from celery_fleet.cli.options import known

Completion = Callable[[click.Context, click.Parameter, str], list[str]]


def task(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the release's tasks, with their short names first."""
    del parameter
    names = _tasks(context)
    return _beginning(typed, [*tasks.short_names(names).values(), *names])


def registered(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the release's tasks by their full names."""
    del parameter
    return _beginning(typed, _tasks(context))


def _tasks(context: click.Context) -> list[str]:
    application = known(context)
    try:
        return tasks.registered(application) if application else []
    except click.ClickException:
        return []


def _listed(names: Callable[[Application], Iterable[str]]) -> Completion:
    """Return the completion of names that the application's inventory lists."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        del parameter
        application = known(context)
        return _beginning(typed, names(application) if application else ())

    return complete


queue = _listed(lambda application: application.queues)
client = _listed(lambda application: application.clients)
#: The node names of the inventory's workers.
node = _listed(lambda application: application.workers)
#: The names of workers, and their node names.
worker = _listed(
    lambda application: [
        *(name.partition("@")[0] for name in application.workers),
        *application.workers,
    ]
)
#: The names of workers.
worker_name = _listed(lambda application: [name.partition("@")[0] for name in application.workers])
#: The hosts of workers.
host = _listed(lambda application: [name.partition("@")[2] for name in application.workers])


def workers(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the last name in a comma-separated list of workers."""
    del parameter
    application = known(context)
    before, comma, last = typed.rpartition(",")
    names = [name.partition("@")[0] for name in (application.workers if application else ())]
    return [f"{before}{comma}{name}" for name in _beginning(last, names)]


def _beginning(typed: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(typed)]
