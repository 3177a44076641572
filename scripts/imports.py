"""Read which modules import which, from their text alone: for the architecture's picture and the contract tests."""

from __future__ import annotations

import ast
from collections.abc import Mapping


def graph(texts: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return what each module imports of the others, except below `if TYPE_CHECKING`.

    Args:
        texts: Text of each module by its dotted name; that of a package ends with `.__init__`.
    """
    known = {name.removesuffix(".__init__"): name for name in texts}
    found = {}
    for name, text in texts.items():
        wanted = _imported(ast.parse(text), name.rpartition(".")[0])
        found[name] = frozenset(known[one] for one in wanted if one in known) - {name}
    return found


def _imported(tree: ast.Module, package: str) -> set[str]:
    """Return the dotted names that a module imports; of `from a import b` both `a` and `a.b`."""
    names: set[str] = set()
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            stem = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            names |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return names
