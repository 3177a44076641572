"""Complete names in the shell, from files on the host only; no server or worker is asked."""

from __future__ import annotations

from collections.abc import Iterable

import click

from celery_fleet.cli import tasks
from celery_fleet.cli.options import known


def task(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the release's tasks, with their short names first."""
    del parameter
    application = known(context)
    if application is None:
        return []
    try:
        names = tasks.registered(application)
    except click.ClickException:
        return []
    return _beginning(typed, [*tasks.short_names(names).values(), *names])


def registered(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the release's tasks by their full names."""
    del parameter
    application = known(context)
    if application is None:
        return []
    try:
        return _beginning(typed, tasks.registered(application))
    except click.ClickException:
        return []


def queue(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the inventory's queues."""
    del parameter
    application = known(context)
    return _beginning(typed, application.queues if application else ())


def client(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the inventory's clients outside of the fleet."""
    del parameter
    application = known(context)
    return _beginning(typed, application.clients if application else ())


def node(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the node names of the inventory's workers."""
    del parameter
    application = known(context)
    return _beginning(typed, application.workers if application else ())


def workers(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the last name in a comma-separated list of workers."""
    del parameter
    application = known(context)
    before, comma, last = typed.rpartition(",")
    names = [name.partition("@")[0] for name in (application.workers if application else ())]
    return [f"{before}{comma}{name}" for name in _beginning(last, names)]


def _beginning(typed: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(typed)]
