"""Each command and figure in the applications' own documents is in docs/commands.md, next to its equivalent."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

from celery_fleet.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "commands.md"

DOCUMENTED_FILE = Path(__file__).with_name("documented.txt")


def documented() -> dict[str, list[str]]:
    """Return the commands and figures in the documents, by application."""
    found: dict[str, list[str]] = {}
    for line in DOCUMENTED_FILE.read_text().splitlines():
        if line.startswith("["):
            texts = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            texts.append(re.fullmatch(r"\d+: (.+)", line)[1])  # type: ignore[index]  # a mistake in the file
    return found


DOCUMENTED = documented()
CASES = [(name, text) for name, texts in DOCUMENTED.items() for text in texts]


@cache
def tables() -> dict[str, dict[str, str]]:
    """Return for each application the quotations in the left column of its tables, with the right column."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        name, _, text = part.partition("\n")
        rows = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)
        # A command in backticks, or the document's words in quotation marks.
        found[name] = {
            left[1:-1].replace("\\|", "|"): right
            for left, right in rows
            if re.fullmatch(r'`[^`]+`|".+"', left)
        }
    return found


def ours() -> list[str]:
    """Return every command in the right columns."""
    return [
        command
        for rows in tables().values()
        for right in rows.values()
        for command in re.findall(r"`([^`]+)`", right)
    ]


def test_the_page_has_the_five_applications() -> None:
    assert list(tables()) == list(DOCUMENTED)


@pytest.mark.parametrize(("name", "text"), CASES)
def test_a_documented_command_has_an_equivalent(name: str, text: str) -> None:
    assert tables()[name][text].strip()


def test_every_row_is_about_a_documented_command() -> None:
    assert {(name, left) for name, rows in tables().items() for left in rows} == set(CASES)


def test_commands_that_inspect_purge_or_control_run_as_the_operator() -> None:
    run = [command for command in ours() if command.startswith("celery-fleet exec")]
    assert len(run) >= 8
    for command in run:
        asks = re.search(r" (inspect|purge|control|active|scheduled)\b", command.split(" -- ")[-1])
        assert (" --as operator " in command) == bool(asks), command


def test_our_commands_are_known_to_the_command_line() -> None:
    """Options are checked as well; what follows `--` belongs to another program."""
    found = [shlex.split(command) for command in ours() if command.startswith("celery-fleet ")]
    assert len(found) >= 40
    for _, name, *words in found:
        # If it is a group, the words that follow are its commands.
        command: click.Command = cli.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        if isinstance(command, click.Group) or name in ("schedule", "health"):
            continue
        own = words[: words.index("--")] if "--" in words else words
        typed = {word.partition("=")[0] for word in own if word.startswith("-")}
        assert typed <= options | {"--app", "--format"}, (name, words)


def test_playbooks_and_links_exist() -> None:
    text = PAGE.read_text()
    words = {word for command in ours() for word in command.split()}
    playbooks = {word for word in words if word.endswith(".yml") or ".core." in word}
    assert playbooks == {"site.yml", "celery_fleet.core.restart_workers"}
    assert (ROOT / "site.yml").is_file()
    assert (ROOT / "playbooks/restart_workers.yml").is_file()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = PAGE.parent / path
        assert target.is_file(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, link
