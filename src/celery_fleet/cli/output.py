"""What a command prints: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Columns where the output is no terminal: wide enough that no line is folded.
WIDE = 240


def printable(value: object, keep: str = "") -> str:
    """Replace the control characters of a text that others wrote, such as an application or who sent a message.

    On a terminal such characters move the cursor, change its title or hide what was printed before.

    Args:
        value: The text, or what becomes one.
        keep: Control characters that may stay.
    """
    return "".join(
        char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}"
        for char in str(value)
    )


def say(value: object, *, err: bool = False) -> None:
    """Print a text of one or several lines."""
    click.echo(printable(value, keep="\n\t"), err=err)


def say_exactly(value: str) -> None:
    """Print a text as it is, unless a person looks on."""
    if sys.stdout.isatty():
        say(value)
    else:
        click.echo(value, color=True)  # else it takes out what looks like a colour


def text(value: object, style: str = "") -> Text:
    """A text for tables and pictures; never markup, since it may hold brackets."""
    return Text(printable(value), style=style)


def as_json(value: Any) -> None:
    """Print JSON, one document."""
    click.echo(json.dumps(value, indent=2, default=str, sort_keys=False))


def console() -> Console:
    """Where tables go; without colours and folding where no person looks on."""
    terminal = sys.stdout.isatty()
    width = None if terminal else WIDE
    plain = not terminal or bool(os.environ.get("NO_COLOR"))
    return Console(width=width, no_color=plain, highlight=False, soft_wrap=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()
) -> None:
    """Print a table; a cell is text, or a text and whether it is well."""
    made = Table(
        title=text(title, "table.title"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in columns:
        made.add_column(text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(cell) for cell in row))
    console().print(made)
    click.echo()


def _cell(cell: Any) -> Text:
    if isinstance(cell, tuple):
        value, well = cell
        return text(value, "green" if well else "bold red")
    return text("-" if cell is None else cell)


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago a moment was: ``3 d 4 h``, ``12 s``."""
    if moment is None:
        return "-"
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, size, lower, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {lower}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"
