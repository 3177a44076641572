"""Messages name commands that can be typed, with a checkout and with the installed collection."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# site.yml is also at the top of a checkout, and is the name of the run.
FILES = sorted(path.name for path in ROOT.glob("playbooks/*.yml") if path.name != "site.yml")
# Without a space it is data.
NAMED = re.compile(rf"(?<![\w/.(-])(?:{'|'.join(map(re.escape, FILES))})(?!\w)")


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a program that people may see: docstrings only of commands, whose help they are."""
    source = path.read_text()
    # To parse a program takes far longer than to see that it names no playbook.
    if not NAMED.search(source):
        return
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    shown = path.parent.name == "commands"
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text and (shown or id(node) not in docstrings):
            yield text


def test_messages_name_no_file_of_a_playbook() -> None:
    assert "deploy_app.yml" in FILES
    programs = [*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in programs
        for text in texts(path)
        if NAMED.search(text)
    ]
    tasks = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in ROOT.glob("roles/*/tasks/*.yml")
        for line in path.read_text().splitlines()
        if NAMED.search(line) and not re.search(r"^\s*#|_tasks: |'[a-z_]+\.yml' if ", line)
    ]
    assert found + tasks == []
