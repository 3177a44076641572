"""Write docs/reference.md: every role with its variables, from the roles' argument specs.

    python scripts/reference.py           write the file
    python scripts/reference.py --check   check that it is up to date; exit status 1 if not

It reads `roles/*/meta/argument_specs.yml`, and `playbooks/site.yml` for the hosts and tags of each role.
The result depends only on these files, so that a test can compare it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
# Prefix of a role's name.
COLLECTION = "celery_fleet.core."
OUTPUT = ROOT / "docs" / "reference.md"

HEAD = """\
# Reference: roles and their variables

Made from `roles/*/meta/argument_specs.yml` and `playbooks/site.yml` by `scripts/reference.py`; edit those.

Variables are set in the inventory's `group_vars`, or for one host in `hosts.yml`. A default in braces is computed
from other variables. Preflight refuses a variable that has a role's prefix and is not listed here.
"""

# The role on which all others depend; a reader needs its variables first.
FACTS = "celery_app"

_MARKUP = re.compile(r"\b[CVOI]\(([^)]*)\)")


@dataclass(frozen=True)
class Use:
    """How `site.yml` uses a role.

    Attributes:
        hosts: The play's host pattern.
        tags: The play's and the role's tags.
    """

    hosts: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One entry point of a role.

    Attributes:
        name: `main`, or what `tasks_from` names.
        title: `short_description`.
        paragraphs: `description`.
        options: Options by name.
    """

    name: str
    title: str
    paragraphs: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Role:
    """One role with its entry points; `use` is None if only other roles call it."""

    name: str
    entries: tuple[Entry, ...]
    use: Use | None


def texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return a description as a tuple of texts; it may be one text or a list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def markdown(text: str) -> str:
    """Return a description as Markdown on one line, with Ansible's `C(…)` as code."""
    return " ".join(_MARKUP.sub(r"`\1`", text).split())


def cell(text: str) -> str:
    """Return a text as a table's cell, in which a bar must be escaped even in code."""
    return text.replace("|", r"\|")


def type_of(option: Mapping[str, Any]) -> str:
    """Return an option's type: `str`, `list of str`, or its choices."""
    if option.get("choices"):
        return ", ".join(f"`{choice}`" for choice in option["choices"])
    name = str(option.get("type", "str"))
    return f"list of {option['elements']}" if "elements" in option else name


def default_of(option: Mapping[str, Any]) -> str:
    """Return an option's default as code, or a word if it is required or has none."""
    if option.get("required"):
        return "**required**"
    if option.get("default") is None:
        return "none"
    default = option["default"]
    text = default if isinstance(default, str) and default else json.dumps(default)
    return f"`{text}`"


def rows(options: Mapping[str, Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    """Yield a table line for each option; nested options follow theirs, with dots in their names."""
    for name, option in options.items():
        says = " ".join(markdown(text) for text in texts(option.get("description")))
        secret = " *Secret.*" if option.get("no_log") else ""
        cells = (f"`{prefix}{name}`", type_of(option), default_of(option), says + secret)
        yield f"| {' | '.join(cell(text) for text in cells)} |"
        # Brackets mark the elements of a list.
        below = f"{prefix}{name}{'[]' if option.get('type') == 'list' else ''}."
        yield from rows(option.get("options") or {}, below)


def section(role: Role) -> Iterator[str]:
    """Yield a role's lines."""
    yield f"## {role.name}"
    for entry in role.entries:
        yield ""
        if entry.name != "main":
            yield f"### {role.name}: {entry.name}"
            yield ""
        yield f"{markdown(entry.title)}."
        for text in entry.paragraphs:
            yield ""
            yield markdown(text)
        if entry.name == "main":
            yield ""
            yield usage(role.use)
        if entry.options:
            yield ""
            yield "| Variable | Type | Default | Meaning |"
            yield "|---|---|---|---|"
            yield from rows(entry.options)
    yield ""


def usage(use: Use | None) -> str:
    """Say on which hosts and under which tags a role runs."""
    if use is None:
        return "In no play of `site.yml` by itself: other roles depend on it or call it."
    hosts = ", ".join(f"`{group}`" for group in use.hosts.split(":"))
    tags = ", ".join(f"`{tag}`" for tag in use.tags)
    return f"Hosts: {hosts}. Tags: {tags}."


def uses(plays: Sequence[Mapping[str, Any]]) -> dict[str, Use]:
    """Return how a playbook's plays use roles, in their order."""
    found: dict[str, Use] = {}
    for play in plays:
        for item in play.get("roles") or ():
            role = {"role": item} if isinstance(item, str) else item
            tags = (*texts(role.get("tags")), *texts(play.get("tags")))
            found.setdefault(
                role["role"].removeprefix(COLLECTION),
                Use(str(play["hosts"]), tuple(dict.fromkeys(tags))),
            )
    return found


def parse(name: str, specs: Mapping[str, Mapping[str, Any]], use: Use | None) -> Role:
    """Return a role from its argument specs, with `main` first."""
    entries = [
        Entry(
            name=entry,
            title=str(spec["short_description"]),
            paragraphs=texts(spec.get("description")),
            options=spec.get("options") or {},
        )
        for entry, spec in sorted(specs.items(), key=lambda item: (item[0] != "main", item[0]))
    ]
    return Role(name, tuple(entries), use)


def read(root: Path) -> list[Role]:
    """Return all roles of a checkout: the application's facts, then those of `site.yml` in order, then the others."""
    used = uses(yaml.safe_load((root / "playbooks" / "site.yml").read_text()))
    paths = {path.parts[-3]: path for path in root.glob("roles/*/meta/argument_specs.yml")}
    order = [name for name in dict.fromkeys([FACTS, *used, *sorted(paths)]) if name in paths]
    return [
        parse(name, yaml.safe_load(paths[name].read_text())["argument_specs"], used.get(name))
        for name in order
    ]


def render(roles: Sequence[Role]) -> str:
    """Return the whole page."""
    contents = [
        f"- [{role.name}](#{role.name}): {markdown(role.entries[0].title)}" for role in roles
    ]
    lines = [HEAD, *contents, ""]
    for role in roles:
        lines += section(role)
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, and write or compare the page."""
    parser = argparse.ArgumentParser(description="Write docs/reference.md from the roles' specs.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if it is stale"
    )
    check = parser.parse_args(arguments).check
    text = render(read(ROOT))
    if not check:
        OUTPUT.write_text(text)
        return 0
    if OUTPUT.is_file() and OUTPUT.read_text() == text:
        return 0
    print(
        f"{OUTPUT.relative_to(ROOT)} is stale: run `python scripts/reference.py`", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
