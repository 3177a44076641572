"""Ask the operator before something is changed for good."""

from __future__ import annotations

import sys

import click

from celery_fleet.cli.errors import BAD, USAGE, CommandError


def has_terminal() -> bool:
    """Return whether there is a terminal to ask on."""
    return sys.stdin.isatty()


def need_terminal() -> None:
    """Refuse to continue without a terminal to ask on.

    Raises:
        CommandError: There is none.
    """
    if not has_terminal():
        raise CommandError("can't ask for confirmation without a terminal; add --yes", USAGE)


def agree(question: str, otherwise: str) -> None:
    """Ask the operator, and continue only after a yes.

    Args:
        question: What to ask.
        otherwise: What to report after a no.

    Raises:
        CommandError: The operator said no.
    """
    # Standard output is kept free for JSON.
    if not click.confirm(question, err=True):
        raise CommandError(otherwise, BAD)
