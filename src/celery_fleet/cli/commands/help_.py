"""``celery-fleet help``: the help of a command, for those who type a word instead of an option."""

from __future__ import annotations

import click

from celery_fleet.cli.options import with_examples


@click.command(
    name="help",
    help=with_examples(
        "Show the help of a command, as its option --help does.",
        ("celery-fleet help", "celery-fleet help dead-letters replay"),
    ),
)
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_(context: click.Context, names: tuple[str, ...]) -> None:
    """Show the help of a command, as its option --help does."""
    context.find_root().command.main([*names, "--help"], prog_name="celery-fleet")
