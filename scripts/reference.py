"""Write the argument specs from the tables of options, then the roles' pages and comments on defaults from the specs.

    python scripts/reference.py           write the files
    python scripts/reference.py --check   check that they are up to date; exit status 1 if not

The tables are the files `*_options.py` in `plugins/plugin_utils/desired/`. A role's README is made from its
`meta/argument_specs.yml` and the first comment of its tasks (or of its `vars/main.yml`, if it has no tasks). Hosts and
tags come from `playbooks/site.yml`, examples from `role_examples.yml`. `metrics_page.py` makes docs/metrics.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "collections"), str(ROOT / "src")]

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (  # noqa: E402  # found by the line above
    application_options,
    backup_options,
    producer_options,
    unit_options,
    worker_options,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import (  # noqa: E402  # found by the line above
    Option,
)

from scripts import metrics_page, playbooks  # noqa: E402  # found by the line above
from scripts.playbooks import Use, texts  # noqa: E402  # found by the line above
from scripts.yaml_text import InlineList, dump  # noqa: E402  # found by the line above

# The entry point with a role's own variables; the second one is that of a role without tasks.
FIRST = ("main", "variables")
# Role and entry point of its specs -> the table of their options.
TABLES: dict[tuple[str, str], tuple[Option, ...]] = {
    ("celery_app", "variables"): application_options.APPLICATION,
    ("celery_app", "url"): application_options.URL,
    ("celery_app", "client"): application_options.CLIENT,
    ("celery_app", "directory"): application_options.DIRECTORY,
    ("celery_producer", "main"): producer_options.PRODUCER,
    ("celery_producer", "static"): producer_options.STATIC,
    ("celery_worker", "main"): worker_options.WORKER_VARIABLES,
}
# The same for single variables whose keys are in a table, in specs that are otherwise written by hand.
ROWS: dict[tuple[str, str], tuple[Option, ...]] = {
    ("celery_beat", "main"): (unit_options.variable("celery_beat_unit", "beat"),),
    ("redis", "main"): (backup_options.variable(),),
    ("flower", "main"): (unit_options.variable("flower_unit", "Flower"),),
}
# Ansible's specs can't describe the elements of these variables. Variable -> suffix and options of an element; the page
# lists them below the variable.
ELEMENTS: dict[str, tuple[str, tuple[Option, ...]]] = {
    "celery_beat_schedule": (".NAME", application_options.ENTRY),
    "celery_release_commands": ("[]", application_options.COMMAND),
}
OUTPUT = ROOT / "docs" / "reference.md"
EXAMPLES = ROOT / "scripts" / "role_examples.yml"

HEAD = """\
# Reference: roles and their variables

<!-- Made by scripts/reference.py. -->

Use this page to find a variable. Each role has a page with its variables, which says what the role puts on a host. Set
them in the inventory's `group_vars`, or for one host in `hosts.yml`. A default in braces is computed from other
variables. Preflight refuses a name that is close to a variable's, or that begins like one of the `celery_…` roles. The
roles are parts of one run and use what others have computed before them, so plays of your own can't use them.

## Roles
"""
README_HEAD = """\
<!-- Made by scripts/reference.py from the argument specs, the first comment of the tasks and the examples. -->
"""

# The role on which all others depend; a reader needs its variables first.
FACTS = "celery_app"

_MARKUP = re.compile(r"\b[CVOI]\(([^)]*)\)")
# Paths in a text that become links: pages, and files of the collection.
_PATHS = re.compile(r"\b(?:docs/[\w-]+\.md|plugins/[\w/]+\.py)\b")
# A default that only Ansible can compute, from an internal variable of the role.
_COMPUTED = re.compile(r"\{\{ __\w+ \}\}")


@dataclass(frozen=True)
class EntryPoint:
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
    """One role.

    Attributes:
        name: Its name.
        entries: Its entry points, the one in `FIRST` first.
        use: How `site.yml` uses it; None if only other roles or playbooks do.
        about: The comment that begins its tasks, as paragraphs.
        example: Variables of an inventory as YAML, or nothing.
    """

    name: str
    entries: tuple[EntryPoint, ...]
    use: Use | None
    about: tuple[str, ...] = ()
    example: str = ""


def markdown(text: str) -> str:
    """Return a description as Markdown on one line: Ansible's `C(…)` as code, paths as links from a role's README."""
    return " ".join(_PATHS.sub(r"[\g<0>](../../\g<0>)", _MARKUP.sub(r"`\1`", text)).split())


def cell(text: str) -> str:
    """Return a text as a table's cell, in which a bar must be escaped even in code."""
    return text.replace("|", r"\|")


def type_of(option: Mapping[str, Any]) -> str:
    """Return an option's type with its bounds: `str`, `list of str`, `int, 1 or more`, or its choices."""
    if option.get("choices"):
        return ", ".join(f"`{choice}`" for choice in option["choices"])
    name = str(option.get("type", "str"))
    name = f"list of {option['elements']}" if "elements" in option else name
    return f"{name}, {option['bounds']}" if option.get("bounds") else name


def default_of(option: Mapping[str, Any]) -> str:
    """Return an option's default as code, or a word if it is required or has none."""
    if option.get("required"):
        return "**required**"
    if option.get("default") is None:
        return "none"
    default = option["default"]
    if isinstance(default, str) and _COMPUTED.fullmatch(default):
        return "computed"
    folded = " ".join(default.split()) if isinstance(default, str) else ""
    text = folded or json.dumps(default)
    return f"`{text}`"


def _on_one_line(option: dict[str, Any]) -> dict[str, Any]:
    below = {name: _on_one_line(one) for name, one in option.get("options", {}).items()}
    found = {**option, **({"options": below} if below else {})}
    return {key: InlineList(value) if key == "choices" else value for key, value in found.items()}


def specs_text(root: Path, role: str) -> str:
    """Return a role's argument specs with the options from the tables."""
    path = root / "roles" / role
    document = yaml.safe_load((path / "meta/argument_specs.yml").read_text())
    defaults = yaml.safe_load((path / "defaults/main.yml").read_text())
    for (name, entry), table in (TABLES | ROWS).items():
        if name == role:
            options = {option.name: _on_one_line(option.spec()) for option in table}
            for key in options.keys() & defaults.keys():
                options[key].setdefault("default", defaults[key])
            by_hand = document["argument_specs"][entry]["options"] if (name, entry) in ROWS else {}
            kept = {key: _on_one_line(option) for key, option in by_hand.items()}
            document["argument_specs"][entry]["options"] = kept | options
    what = "Options of units" if (role, "main") in ROWS else "The options"
    head = f"---\n# {what} are written by scripts/reference.py, from tables in plugins/plugin_utils/desired/.\n"
    return head + dump(document)


def defaults_text(text: str, options: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a role's defaults with the first paragraph of each variable's description above it."""
    plain = "".join(line for line in text.splitlines(True)[1:] if line.strip() and line[0] != "#")
    lines = [
        "---",
        "# The comments are written by scripts/reference.py, from meta/argument_specs.yml.",
    ]
    for block in re.findall(r"^\w.*\n(?:[ -].*\n)*", plain, re.MULTILINE):
        meaning = texts(options[block.partition(":")[0]].get("description"))[0]
        lines += textwrap.wrap(
            _MARKUP.sub(r"`\1`", meaning),
            120,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
        )
        lines.append(block.rstrip())
    return "\n".join(lines) + "\n"


def rows(options: Mapping[str, Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    """Yield a table line for each option; nested options follow theirs, with dots in their names."""
    for name, option in options.items():
        says = " ".join(markdown(text) for text in texts(option.get("description")))
        secret = " *Secret.*" if option.get("no_log") else ""
        cells = (f"`{prefix}{name}`", type_of(option), default_of(option), says + secret)
        yield f"| {' | '.join(cell(text) for text in cells)} |"
        # Brackets mark the elements of a list.
        brackets = "[]" if option.get("type") == "list" else ""
        below = f"{prefix}{name}{option.get('element', brackets)}."
        yield from rows(option.get("options") or {}, below)


def readme(role: Role) -> str:
    """Return a role's README."""
    main, *others = role.entries
    lines = [f"# {role.name}", "", README_HEAD, f"{markdown(main.title)}."]
    for text in (*main.paragraphs, usage(role.use)):
        lines += ["", markdown(text)]
    if role.about:
        lines += ["", "## On a host", "", "\n\n".join(markdown(text) for text in role.about)]
    if role.example:
        lines += ["", "## Example", "", "In the inventory's `group_vars`:", ""]
        lines += [f"    {line}".rstrip() for line in role.example.strip().splitlines()]
    if main.options:
        lines += ["", "## Variables", "", *table(main)]
    for entry in others:
        lines += ["", f"## {entry.name}", "", f"{markdown(entry.title)}."]
        lines += [f"\n{markdown(text)}" for text in entry.paragraphs]
        lines += ["", *table(entry)] if entry.options else []
    return "\n".join(lines) + "\n"


def table(entry: EntryPoint) -> Iterator[str]:
    """Yield the lines of an entry point's table."""
    yield "| Variable | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    yield from rows(entry.options)


def usage(use: Use | None) -> str:
    """Say on which hosts and under which tags a role runs."""
    if use is None:
        return "No play of `site.yml` has this role: another role or playbook needs it."
    tags = ", ".join(f"`{tag}`" for tag in use.tags)
    return f"Hosts: {use.groups}. Tags: {tags}."


def completed(
    options: Mapping[str, Mapping[str, Any]], table: Sequence[Option] = ()
) -> dict[str, dict[str, Any]]:
    """Return options with details that Ansible's specs can't express: bounds, and the keys of elements."""
    found = {name: dict(option) for name, option in options.items()}
    for one in table:
        found[one.name]["bounds"] = one.bounds
        if one.options:
            found[one.name]["options"] = completed(found[one.name]["options"], one.options)
    for name, (element, keys) in ELEMENTS.items():
        if name in found:
            below = completed({one.name: one.spec() for one in keys}, keys)
            found[name].update(element=element, options=below)
    return found


def first_comment(text: str) -> tuple[str, ...]:
    """Return the paragraphs of the comment with which a YAML file begins."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()[1:])
    comment = "\n".join(line.removeprefix("#").strip() for line in lines)
    return tuple(one for one in comment.split("\n\n") if one)


def parse(
    name: str,
    specs: Mapping[str, Mapping[str, Any]],
    use: Use | None,
    about: tuple[str, ...] = (),
    example: str = "",
) -> Role:
    """Return a role from its argument specs."""
    entries = [
        EntryPoint(
            name=entry,
            title=str(spec["short_description"]),
            paragraphs=texts(spec.get("description")),
            options=completed(spec.get("options") or {}, (TABLES | ROWS).get((name, entry), ())),
        )
        for entry, spec in sorted(specs.items(), key=lambda item: (item[0] not in FIRST, item[0]))
    ]
    return Role(name, tuple(entries), use, about, example)


def read(root: Path) -> list[Role]:
    """Return all roles of a checkout: `FACTS` first, then the roles of `site.yml` in its order, then the others."""
    deploy = [root / "playbooks" / f"{name}.yml" for name in ("preflight", "site")]
    used = playbooks.uses([play for path in deploy for play in playbooks.plays(path)])
    paths = {path.parts[-3]: path for path in root.glob("roles/*/meta/argument_specs.yml")}
    order = [name for name in dict.fromkeys([FACTS, *used, *sorted(paths)]) if name in paths]
    examples = yaml.safe_load(EXAMPLES.read_text())
    found = []
    for name in order:
        specs = yaml.safe_load(paths[name].read_text())["argument_specs"]
        role = root / "roles" / name
        tasks = role / "tasks/main.yml"
        about = first_comment((tasks if tasks.is_file() else role / "vars/main.yml").read_text())
        found.append(parse(name, specs, used.get(name), about, examples.get(name, "")))
    return found


def render(roles: Sequence[Role]) -> str:
    """Return the page that lists all roles."""
    lines = [
        f"- [{role.name}](../roles/{role.name}/README.md): {markdown(role.entries[0].title)}"
        for role in roles
    ]
    return "\n".join([HEAD, *lines]) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, and write or compare the files."""
    parser = argparse.ArgumentParser(description="Write argument specs and the roles' pages.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if a file is stale"
    )
    check = parser.parse_args(arguments).check
    stale = False

    def write(path: Path, text: str) -> None:
        nonlocal stale
        if not check:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale = True
            told = f"{path.relative_to(ROOT)} is stale: run `python scripts/reference.py`"
            print(told, file=sys.stderr)

    for role, entry in TABLES | ROWS:
        if entry in FIRST:
            write(ROOT / "roles" / role / "meta/argument_specs.yml", specs_text(ROOT, role))
    # The rest is made from the specs.
    roles = read(ROOT)
    for one in roles:
        write(ROOT / "roles" / one.name / "README.md", readme(one))
        defaults = ROOT / "roles" / one.name / "defaults/main.yml"
        if defaults.is_file():
            write(defaults, defaults_text(defaults.read_text(), one.entries[0].options))
    write(OUTPUT, render(roles))
    write(ROOT / "docs" / "metrics.md", metrics_page.render())
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
