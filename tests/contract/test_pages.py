"""The documentation: the site builds, no link is broken, and commands on its pages exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from markdown_it import MarkdownIt

from celery_fleet.cli.main import cli
from scripts import picture

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("docs/*.md", "README.md", "inventories/README.md", "roles/*/README.md")
    for path in ROOT.glob(pattern)
)
APP = "flexiprice"
# Transient units, and other software's units that pages mention.
FURTHER_UNITS = (
    f"{APP}-exec-*.service",
    f"{APP}-command.*.service",
    f"{APP}-worker@*.next.service",
)


# --- the site ------------------------------------------------------------------------------------------


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Build the site, or a site from other pages."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"),
            *("--builder", "html", "--conf-dir", str(ROOT / "docs")),
            *("--doctree-dir", str(output / "doctrees"), str(source), str(output / "html")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for page in PAGES:
        name = page.relative_to(ROOT).with_suffix(".html")
        assert (tmp_path / "html" / name).is_file()
    assert "docs/index.html" in (tmp_path / "html/index.html").read_text()
    # The site must work for readers without a network.
    for page in (tmp_path / "html").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]* (?:src|href)="(https?:[^"]*)"', page.read_text()
        )
        assert loaded == [], page


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    (docs / "index.md").write_text(
        "# Pages\n\n## Part\n\n- [One](one.md)\n\n[a](gone.md), [b](one.md#gone), [c](../gone.yml), [d](#gone)\n"
    )
    (docs / "one.md").write_text("# One\n\n## There\n\n[e](index.md#part), [f](#there)\n")
    (docs / "lost.md").write_text("# In no table of contents\n")
    done = build(tmp_path / "source", tmp_path / "output")
    assert done.returncode == 1
    for broken in ("gone.md", "gone", "../gone.yml", "lost.md"):
        assert broken in done.stderr
    assert len(re.findall(r"WARNING: ", done.stderr)) == 5, done.stderr


# --- the picture of the inventory ------------------------------------------------------------------------


def test_the_picture_shows_the_demos_inventory() -> None:
    root = ET.parse(ROOT / "docs/inventory.svg").getroot()  # noqa: S314 - a file of ours
    texts = ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]
    inventory = yaml.safe_load((ROOT / "inventories/local/hosts.yml").read_text())
    groups = {name: list(group["hosts"]) for name, group in inventory["fleet"]["children"].items()}
    for name, hosts in groups.items():
        assert f"{name}: {', '.join(hosts)}" in texts
    for host, given in inventory["fleet"]["children"]["celery_workers"]["hosts"].items():
        # The text from this host's name to the next one's.
        rest = texts[texts.index(host) + 1 :]
        shown = rest[: len(given["celery_worker_host_instances"])]
        assert shown == [
            f"<app>-worker@{worker}" for worker in given["celery_worker_host_instances"]
        ]
    known = {name for options in specs().values() for name in options}
    shown_variables = {text for text in texts if re.fullmatch(r"(celery|redis|flower)_\w+", text)}
    assert len(shown_variables) >= 6
    assert shown_variables <= known


# --- the picture of the architecture ---------------------------------------------------------------------


@pytest.mark.slow
def test_the_picture_of_the_architecture_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert picture.main(["--check"]) == 0, capsys.readouterr().err


def test_imports_are_read_from_the_files(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/one.py": "from ..b import two\nimport p.c\n",
        "b/two.py": "if TYPE_CHECKING:\n    from p.c import Three\n\n\ndef f():\n    from p import c\n",
        "c.py": "import json\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    found = set(picture.imports(tmp_path, "p"))
    assert found == {("a", "b"), ("a", "c"), ("b", "c")}
    # The arrow from a to c follows from the others.
    assert picture.needed(found) == [("a", "b"), ("b", "c")]


def test_a_package_without_a_place_is_named() -> None:
    with pytest.raises(SystemExit, match=r"without a place in scripts/picture\.py: new"):
        list(picture.packages({("new", "common")}, picture.HOST))


def test_a_deploy_names_roles_and_their_parts() -> None:
    tasks = "\n        name: celery_fleet.core.redis\n        tasks_from: finish\n"
    assert picture.deploy(f"- celery_fleet.core.preflight\n{tasks}") == [
        ("preflight", ""),
        ("redis", "finish"),
    ]


# --- commands on pages ------------------------------------------------------------------------


@cache
def specs() -> dict[str, dict[str, Any]]:
    """Return the options of all roles, by role."""
    return {
        path.parts[-3]: {
            name: option
            for entry in yaml.safe_load(path.read_text())["argument_specs"].values()
            for name, option in (entry.get("options") or {}).items()
        }
        for path in ROOT.glob("roles/*/meta/argument_specs.yml")
    }


@cache
def code(page: Path) -> tuple[str, ...]:
    """Return all code of a page: each line of its blocks, together with its continuation lines."""
    found = []
    # A report names the commands that made its figures, which a later commit may no longer have.
    figures = re.compile("<!-- figures: begin -->.*<!-- figures: end -->", re.DOTALL)
    for token in MarkdownIt().enable("table").parse(figures.sub("", page.read_text())):
        if token.type in ("code_block", "fence"):
            found += re.sub(r"\\\n\s*", " ", token.content).splitlines()
        found += [one.content for one in token.children or () if one.type == "code_inline"]
    return tuple(line.strip().removeprefix("$ ").removeprefix("sudo ") for line in found)


def commands(page: Path, *programs: str) -> Iterator[list[str]]:
    """Return the words after the program's name for each command of some programs."""
    for line in code(page):
        program, _, rest = line.partition(" ")
        # Skip synopses and lines of output.
        if program in programs and rest and not rest.startswith(("[", "|")):
            # In a table's code, `|` is escaped.
            words = shlex.split(rest.replace(r"\|", "|"), comments=True)
            ends = [n for n, word in enumerate(words) if word in ("|", "&&")]
            yield words[: ends[0]] if ends else words


def values(command: click.Command) -> dict[str, bool]:
    """Return a command's options, and whether each takes a value."""
    return {
        name: not parameter.is_flag
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def named(page: Path, *programs: str) -> list[list[str]]:
    return [words for words in commands(page, *programs) if words]


def test_the_search_finds_commands() -> None:
    runbook = ROOT / "docs/runbook.md"
    assert len(named(runbook, "celery-fleet")) > 40
    assert len(named(runbook, "systemctl", "journalctl")) > 15
    assert len(named(runbook, "ansible-playbook")) > 10
    assert len([words for page in PAGES for words in named(page, "make")]) > 30


# Parts of messages on pages that differ between fleets, or that are composed of values.
EXAMPLES = re.compile(
    rf"{APP}|discounts|redis1:6379|DATABASE_URL|(?:host|client|ca)\.crt|3 of mail@worker1|10 s\b|^watchdog, verdict"
    r"|\b(?:broker|failed|inactive|activating|ahead of|behind|dead letters|messages|since|tasks)\b"
)
# Messages of the system and of Celery.
NOT_OURS = ("Connection refused", "no ssl options, defaulting to insecure SSL behaviour")


ALL = ("src/**/*.py", "plugins/**/*.py", "roles/**/*.yml")
# What `celery-fleet status` and `celery-fleet health` print.
OF_THE_COMMAND = tuple(
    f"src/celery_fleet/{part}/**/*.py" for part in ("cli", "health", "ops", "common", "supervision")
)


@cache
def messages(patterns: tuple[str, ...] = ALL) -> str:
    """Return all text that these files may print, with marks in place of values."""
    files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    found = [
        "\n".join(strings(path.read_text())) if path.suffix == ".py" else path.read_text()
        for path in files
    ]
    marked = re.sub(r"\{[^{}]*\}|%\.?\d*[sdf]", "…", "\n".join(found))
    return re.sub(r"\s+", " ", marked)


def strings(text: str) -> Iterator[str]:
    """Yield the strings of a program without docstrings, which no message is made of."""
    tree = ast.parse(text)
    left_out = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = node.values
            left_out.update(map(id, parts))
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts
            )
        elif isinstance(node, ast.Constant) and id(node) not in left_out:
            yield str(node.value)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("runbook", 40), ("delivery", 25)])
def test_quoted_messages_exist_in_the_code(name: str, least: int) -> None:
    parts = quoted(code(ROOT / f"docs/{name}.md"))
    assert len(parts) > least
    assert [part for part in parts if part not in messages()] == []


def test_the_first_words_of_the_runbook_are_those_of_its_commands(tmp_path: Path) -> None:
    """Another program may print the same words, which would lead nowhere."""
    page = tmp_path / "first.md"
    page.write_text((ROOT / "docs/runbook.md").read_text().split("\n## ")[1])
    parts = quoted(code(page))
    assert len(parts) > 25
    assert [part for part in parts if part not in messages(OF_THE_COMMAND)] == []


def quoted(lines: Iterable[str]) -> list[str]:
    """Return the parts of quoted messages that are the same in each fleet."""
    parts = [
        part.strip(" :,;.()[]@-")
        for line in lines
        for part in EXAMPLES.sub("…", line).split("…")
        if "…" in line and not line.startswith(("celery-fleet ", "ansible", "systemctl ", "/"))
    ]
    return [part for part in parts if len(part) > 5 and part not in NOT_OURS]


def test_a_commit_to_go_back_to_is_tested() -> None:
    tested = (ROOT / "tests/upgrade_from").read_text().splitlines()
    words = named(ROOT / "docs/upgrading.md", "git")
    commits = [word for line in words for word in line if re.fullmatch("[0-9a-f]{7,40}", word)]
    assert commits
    for commit in commits:
        assert any(line.startswith(commit) for line in tested), commit


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    """Rules for each page."""

    def test_commands_of_the_operator_exist(self, page: Path) -> None:
        for words in named(page, "celery-fleet"):
            command: click.Command = cli
            # As on the command line, both options of all commands may be anywhere.
            own = words[: words.index("--")] if "--" in words else words
            takes = {"--app": True, "--format": True, "--help": False}
            rest = iter(own)
            for word in rest:
                takes |= values(command)
                if word.startswith("-"):
                    option, given, _ = word.partition("=")
                    assert option in takes, words
                    if takes[option] and not given:
                        next(rest)
                elif isinstance(command, click.Group) and word not in ("COMMAND", "…"):
                    assert word in command.commands, words
                    command = command.commands[word]

    def test_targets_of_make_exist(self, page: Path) -> None:
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        targets |= {
            f"{kind}-{path.parent.name}"
            for path in ROOT.glob("molecule/*/molecule.yml")
            for kind in ("test", "soak")
        }
        targets |= {f"demo-{path.parent.name}" for path in ROOT.glob("examples/*/README.md")}
        for words in named(page, "make"):
            asked = [word for word in words if "=" not in word and not word.startswith("-")]
            asked = [word for word in asked if not re.search("[<…*%]", word)]
            assert set(asked) <= targets, words

    def test_playbooks_and_tags_exist(self, page: Path) -> None:
        tags = {*specs(), "configure", "deploy", "verify", "always"}
        for words in named(page, "ansible-playbook"):
            for word, following in zip(words, [*words[1:], ""], strict=True):
                if word.endswith(".yml") and not word.startswith(("-", "@")) and "<" not in word:
                    assert (ROOT / word).is_file(), words
                if word in ("--tags", "--skip-tags") and "<" not in following:
                    assert set(following.split(",")) <= tags, words

    def test_units_exist(self, page: Path) -> None:
        table = (ROOT / "docs/on-a-host.md").read_text().split("## Units")[1].split("\n## ")[0]
        units = [*re.findall(r"^\| `([^`]+)`", table, re.MULTILINE), *FURTHER_UNITS]
        units = [re.sub("<worker>|<instance>", "*", unit).replace("<app>", APP) for unit in units]
        units += [unit.removesuffix(".service") for unit in units]
        # That page also quotes commands from other documents; test_commands.py checks those.
        programs = () if page.name == "commands.md" else ("systemctl", "journalctl")
        for words in named(page, *programs):
            for word in words:
                if word.startswith((f"{APP}-", f"{APP}.", f"redis@{APP}")):
                    assert any(fnmatch(word, unit) or fnmatch(unit, word) for unit in units), words


def test_each_table_of_figures_names_its_command() -> None:
    text = (ROOT / "docs/performance.md").read_text()
    sections = [one for one in re.split(r"^## ", text, flags=re.MULTILINE) if "\n|" in one]
    assert len(sections) > 4
    commands = re.compile(
        r"`[^`\n]*(?:\bmake [a-z]|python (?:-m )?scripts|ansible-playbook )[^`\n]*`"
    )
    assert [one.partition("\n")[0] for one in sections if not commands.search(one)] == []


def test_each_table_of_figures_names_its_commit_and_date() -> None:
    text = (ROOT / "docs/performance.md").read_text()
    tables = [one for one in re.split(r"^## ", text, flags=re.MULTILINE) if "\n|" in one]
    measured = re.compile(r"`[0-9a-f]{7}`, \d{4}-\d\d-\d\d")
    assert [one.partition("\n")[0] for one in tables if not measured.search(one)] == []


def test_the_readme_has_the_figures_of_restarts() -> None:
    """It also shows the effect of late acknowledgement, because the comparison would be unfair otherwise."""

    def rows(page: str, first: str) -> dict[str, list[str]]:
        table = (ROOT / page).read_text().partition(f"\n| {first} |")[0].rpartition("\n\n")[2]
        table += (ROOT / page).read_text().partition(table)[2].partition("\n\n")[0]
        lines = [line.replace("**", "").strip("|").split("|") for line in table.splitlines()]
        return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}

    readme, measured = rows("README.md", "lost"), rows("docs/restarts.md", "sent")
    # Here late acknowledgement is next to early; in the other table it comes after both.
    order = (0, 1, 3, 2, 4)
    assert [words for words in readme[""] if "late acknowledgement" in words] == readme[""][2::2]
    assert ["late acknowledgement" in measured[""][n] for n in order] == [
        *(False, False, True, False, True)
    ]
    assert readme["lost"] == [f"{measured['lost'][n]} of {measured['sent'][n]}" for n in order]
    assert readme["run twice"] == [measured["doubled"][n] for n in order]


@pytest.mark.parametrize("page", ["README.md", "docs/development.md"])
def test_the_pages_on_tests_name_both_commands(page: str) -> None:
    text = (ROOT / page).read_text()
    assert "`make test`" in text
    assert "`molecule test`" in text
