"""What a command prints: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
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
    """Print a table; a cell is text, or a text and whether it is well.

    Where the terminal is narrower, cells go on in further lines, which begin at a word; where the words are too long
    for that, each row takes a line for each of its cells.
    """
    made = [[_cell(cell) for cell in (*row, *[""] * (len(columns) - len(row)))] for row in rows]
    words = [[name, *(row[number].plain for row in made)] for number, name in enumerate(columns)]
    widths = [max(map(cell_len, column)) for column in words]
    least = [max(cell_len(part) for cell in column for part in parts(cell)) for column in words]
    place = console()
    room = place.width - GAP * (len(columns) - 1)
    lines = [text(title, "italic")]
    if sum(least) > room:
        longest = max(map(cell_len, columns))
        for row in made:
            # What stands above is not said again.
            lines += [
                Text.assemble(f"{name}{' ' * (longest - cell_len(name) + GAP)}", cell)
                for name, cell in zip(columns, row, strict=True)
                if cell.plain
            ]
            lines.append(Text())
        lines = lines[:-1]
    else:
        while sum(widths) > room:
            number = max(
                (n for n in range(len(widths)) if widths[n] > least[n]), key=widths.__getitem__
            )
            widths[number] -= 1
        sides = ["right" if name in right else "left" for name in columns]
        head = [text(name, "bold") for name in columns]
        lines += [line for row in (head, *made) for line in _lines(row, widths, sides)]
    for line in [*lines, Text()]:
        place.print(line, soft_wrap=True)


#: Columns between two of a table.
GAP = 2

#: A part of a cell behind which a line may end: never within an id, a number or a time.
_PART = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\s*|.+?(?:\s+|(?<=\w[._@/,-])(?=[^\W\d])|$)"
)


def parts(cell: str) -> list[str]:
    """What a cell may be divided into: ``core.tasks.add`` into ``core.``, ``tasks.`` and ``add``."""
    return [part.rstrip() for part in _PART.findall(cell)] or [""]


def _folded(cell: Text, width: int) -> list[Text]:
    """A cell in lines of at most so many columns."""
    found = [""]
    for part in _PART.findall(cell.plain):
        if found[-1] and cell_len(found[-1] + part.rstrip()) > width:
            found.append("")
        found[-1] += part
    return [Text(line.rstrip(), cell.style) for line in found]


def _lines(row: Sequence[Text], widths: Sequence[int], sides: Sequence[str]) -> list[Text]:
    """The lines of one row."""
    folded = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
    found = []
    for number in range(max(map(len, folded))):
        line = Text()
        for cell, width, side in zip(folded, widths, sides, strict=True):
            own = cell[number] if number < len(cell) else Text()
            pad = " " * (width - cell_len(own.plain))
            line.append_text(
                Text.assemble(*((pad, own) if side == "right" else (own, pad)), " " * GAP)
            )
        line.rstrip()
        found.append(line)
    return found


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
