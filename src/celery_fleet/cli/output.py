"""Print tables for people and JSON for scripts."""

from __future__ import annotations

import json
import math
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

#: Columns if the output is not a terminal: wide enough that no line is folded.
WIDE = 240


def printable(value: object, keep: str = "") -> str:
    """Replace control characters in a text from elsewhere, such as an application or the sender of a message.

    On a terminal such characters can move the cursor, change its title or hide earlier output.

    Args:
        value: The text, or a value to convert to text.
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
    """Print a text unchanged, unless it goes to a terminal. What can't be encoded is escaped."""
    if sys.stdout.isatty():
        say(value)
    else:
        # From a text click would remove what looks like a colour.
        click.echo(value.encode(sys.stdout.encoding, "backslashreplace"))


def text(value: object, style: str = "") -> Text:
    """Return a text for tables; never markup, because it may contain brackets."""
    return Text(printable(value), style=style)


def as_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    """Return a value as JSON, with null for NaN and Infinity, which JSON does not have, and texts for other objects."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def console() -> Console:
    """Return the console for tables; without colours and folding if the output is not a terminal."""
    terminal = sys.stdout.isatty()
    width = None if terminal else WIDE
    plain = not terminal or bool(os.environ.get("NO_COLOR"))
    return Console(width=width, no_color=plain, highlight=False, soft_wrap=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()
) -> None:
    """Print a table; a cell is a text, or a text and whether it is good.

    On a narrow terminal, cells continue on further lines, broken between words. If the words are too long for that,
    each cell is printed on a separate line.
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
            # Leave out empty cells, which repeat the cell above.
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


#: Spaces between two columns.
GAP = 2

#: A part of a cell after which a line may break: never within an id, a number or a time.
_PART = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\s*|.+?(?:\s+|(?<=\w[._@/,-])(?=[^\W\d])|$)"
)


def parts(cell: str) -> list[str]:
    """Return the parts between which a cell may break: ``core.tasks.add`` gives ``core.``, ``tasks.`` and ``add``."""
    return [part.rstrip() for part in _PART.findall(cell)] or [""]


def _folded(cell: Text, width: int) -> list[Text]:
    """Return a cell as lines of at most so many columns."""
    found = [""]
    for part in _PART.findall(cell.plain):
        if found[-1] and cell_len(found[-1] + part.rstrip()) > width:
            found.append("")
        found[-1] += part
    return [Text(line.rstrip(), cell.style) for line in found]


def _lines(row: Sequence[Text], widths: Sequence[int], sides: Sequence[str]) -> list[Text]:
    """Return the lines of one row."""
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


def utc(moment: datetime) -> str:
    """Return a moment, which has a time zone, as text: ``2026-01-02 03:00:00 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago a moment was: ``3 d 4 h``, ``12 s``."""
    if moment is None:
        return "-"
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, size, lower, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {lower}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"
