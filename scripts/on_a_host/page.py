"""Build the page: a table for each kind of thing, and who can read which secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts import playbooks
from scripts.on_a_host.things import ROOT, Page, Thing, take
from scripts.on_a_host.words import (
    GIVEN_BY,
    HEAD,
    HOLDS,
    INTRODUCTIONS,
    OPTIONS,
    PORTS,
    READ_BY,
)
from tests.render.fleet import Fleet

# A variable of the examples' inventories, and our variable through which they pass it on.
_BY = {"postgresql_password": "`celery_app_env_urls`"}


class PageError(Exception):
    """The page can't describe something that was rendered; the message names the missing text."""


def variable(name: str) -> str:
    """Return the variable that a render's name of a secret stands for."""
    first, _, rest = name.partition(" ")
    if first == "redis_passwords":
        return f"`{first}.{rest}`"
    return _BY.get(first.strip(), f"`{first}`")


def option(name: str, thing: Thing) -> str:
    """Return the option that adds a thing which a fleet does not have by default; see `option_of`."""
    return "" if thing.default else option_of(name, OPTIONS, "OPTIONS")


def option_of(name: str, options: Mapping[str, str], where: str) -> str:
    """Return the variable listed for a name.

    Raises:
        PageError: No pattern matches the name.
    """
    for pattern, variable_ in options.items():
        if re.search(pattern, name):
            return variable_
    raise PageError(
        f"{name}: say in {where} of scripts/on_a_host/words.py which variable brings it"
    )


def by(thing: Thing) -> str:
    """Return the roles of a thing."""
    return ", ".join(f"`{role}`" for role in sorted(thing.roles))


def table(page: Page, kind: str, heads: Sequence[str]) -> Iterator[str]:
    """Yield the table of one kind; empty columns are left out."""
    rows = [
        (f"`{name}`", *thing.cells, option(name, thing), by(thing))
        for name, thing in sorted(page.things[kind].items())
    ]
    yield from lines((*heads, "Option", "By"), rows)


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table's lines."""
    told = [n for n in range(len(heads)) if any(row[n] for row in rows)]
    yield f"| {' | '.join(heads[n] for n in told)} |"
    yield f"|{'---|' * len(told)}"
    for row in rows:
        # A bar must be escaped even in code.
        cells = [row[n].replace("|", r"\|") for n in told]
        yield f"| {' | '.join(cells)} |"


def ports(page: Page) -> Iterator[str]:
    """Yield the ports, in the order of `PORTS`."""
    found = page.things["ports"]
    rows = []
    for name, (what, variable_, needs) in PORTS.items():
        thing = found[name]
        rows.append((thing.cells[0], what, f"`{variable_}`", needs, option(name, thing), by(thing)))
    yield from lines(
        ("Port", "Who listens", "Variable", "What a caller needs", "Option", "By"), rows
    )


def secrets(page: Page) -> Iterator[str]:
    """Yield the files with secrets: who can open each, what reads it, and which secrets of the inventory it has.

    Raises:
        PageError: The content or the readers of a file are unknown.
    """
    rows = []
    for name, thing in sorted(page.things["secrets"].items()):
        told = {variable(one) for one in page.holds[name] if not one.startswith("key of ")}
        told |= {text for pattern, text in HOLDS.items() if re.search(pattern, name)}
        if not told:
            raise PageError(
                f"{name}: say in HOLDS of scripts/on_a_host/words.py which secret it holds"
            )
        opens = " or ".join(sorted(page.readers[name]))
        given = [
            unit
            if True in seen or not thing.default
            else f"{unit} ({option_of(f'{name} {unit}', GIVEN_BY, 'GIVEN_BY')})"
            for unit, seen in sorted(page.given.get(name, {}).items())
        ]
        given += [text for pattern, text in READ_BY.items() if re.search(pattern, name)]
        if not given:
            raise PageError(f"{name}: say in READ_BY of scripts/on_a_host/words.py who reads it")
        holds = ", ".join(sorted(told))
        rows.append((f"`{name}`", opens, ", ".join(given), holds, option(name, thing), by(thing)))
    yield from lines(("File", "Opened by", "Given to", "Holds", "Option", "By"), rows)


def write(local: Fleet, others: Sequence[Fleet]) -> str:
    """Return the whole page.

    Args:
        local: A fleet with what every fleet has.
        others: Fleets with more.
    """
    page = Page()
    take(page, local, True)
    for fleet in others:
        take(page, fleet, False)
    plays = playbooks.plays(ROOT / "playbooks" / "site.yml")
    roles = sorted(
        {role for each in page.things.values() for one in each.values() for role in one.roles}
    )
    sections = {
        "Users and groups": table(page, "accounts", ("Name", "What")),
        "Ports": ports(page),
        "Units": table(page, "units", ("Unit", "What", "Runs as")),
        "Secrets": secrets(page),
        "Files": table(page, "files", ("File", "Owner", "Mode")),
        "Links": table(page, "links", ("Link", "To")),
        "Directories": table(page, "directories", ("Directory", "Owner", "Mode")),
        "Directories of units": table(page, "made", ("Directory", "Owner", "Mode", "Of")),
        "Data": table(page, "data", ("Path", "Kept by")),
    }
    text = [HEAD]
    for title, rows in sections.items():
        text += [f"## {title}", "", *INTRODUCTIONS.get(title, ()), *rows, ""]
    text += [
        "## Roles and hosts",
        "",
        *lines(
            ("Role", "Hosts"), [(f"[{r}](../roles/{r}/README.md)", hosts(r, plays)) for r in roles]
        ),
    ]
    return "\n".join(text).rstrip() + "\n"


def hosts(role: str, plays: Sequence[Mapping[str, Any]]) -> str:
    """Return the groups of hosts on which a role acts, from the first play that has the role."""
    use = playbooks.uses(plays).get(role)
    if use is None:
        raise PageError(f"{role}: no play of site.yml has this role")
    return use.groups
