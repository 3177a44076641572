"""Limits on the length of files; and no two classes share a name."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Maximum lines of a file. A file with more than `LONG` lines must say in its docstring why it is not split.
LONGEST = 450
LONG = 400
#: The words that begin this reason, in the file's docstring.
REASON = "it is a single file"

#: Public classes that have names of other projects, so several files define them.
SHARED_NAMES = {
    "LookupModule",  # Ansible's, for each lookup plugin
    "CallbackModule",  # the same for each callback plugin
    "Channel",  # kombu's, for each of its minors
    "SentinelChannel",
    "Transport",
}
#: The name that Ansible gives to each action plugin.
EACH_HAS_ONE = "ActionModule"


def sources() -> dict[str, str]:
    """Return the product's Python by path."""
    paths = [path for part in ("src", "plugins", "scripts") for path in (ROOT / part).rglob("*.py")]
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}


def too_long(texts: Mapping[str, str]) -> list[str]:
    """Return files that are too long, or long without a reason in their docstring."""
    found = []
    for name, text in texts.items():
        lines = len(text.splitlines())
        if lines <= LONG:
            continue
        docstring = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
        if lines > LONGEST or REASON not in docstring.lower():
            found.append(name)
    return found


def doubled_classes(texts: Mapping[str, str]) -> set[str]:
    """Return the names of public classes that several files define."""
    homes: dict[str, set[str]] = {}
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(name)
    return {name for name, files in homes.items() if len(files) > 1} - {EACH_HAS_ONE}


def test_no_file_is_too_long() -> None:
    assert too_long(sources()) == [], (
        f"split it by what it is responsible for; up to {LONGEST} lines, its docstring may say instead why {REASON}"
    )


def test_no_class_has_the_name_of_another() -> None:
    assert doubled_classes(sources()) == SHARED_NAMES, (
        "rename the new class; remove from the list what no longer exists"
    )


# --- that each of these can fail ---


def test_a_long_file_without_a_reason_is_found() -> None:
    def lines(number: int, docstring: str = "Text.") -> str:
        return f'"""{docstring}"""\n' + "x = 1\n" * (number - 1)

    reason = "Therefore it is a single file."
    texts = {
        "short.py": lines(LONG),
        "long.py": lines(LONG + 1),
        "with_reason.py": lines(LONGEST, reason),
        "too_long.py": lines(LONGEST + 1, reason),
        "in_a_comment.py": "# It is a single file.\n" * (LONG + 1),
    }
    assert too_long(texts) == ["long.py", "too_long.py", "in_a_comment.py"]


def test_a_doubled_class_is_found() -> None:
    both = "class ActionModule: ...\nclass _Own: ...\n"
    texts = {"a.py": f"{both}class Plan: ...\n", "b.py": f"{both}def f():\n    class Plan: ...\n"}
    assert doubled_classes(texts) == {"Plan"}
    assert doubled_classes({"a.py": "class Plan: ...\nclass Plan: ...\n"}) == set()
