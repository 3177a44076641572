"""Find out from the modules' text which of them import each other, for the architecture's picture and contract tests.

The dotted name of a package ends with `.__init__`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache

Graph = Mapping[str, frozenset[str]]


def graph(texts: Mapping[str, str], *, for_types: bool = False) -> dict[str, frozenset[str]]:
    """Return what each module imports of the others.

    Args:
        texts: Text of each module by its dotted name.
        for_types: Whether imports below `if TYPE_CHECKING` count.
    """
    known = {name.removesuffix(".__init__"): name for name in texts}
    found = {}
    for name, text in texts.items():
        # The last part may be a name inside of the module.
        wanted = (
            known.get(one) or known.get(one.rpartition(".")[0])
            for one in imported(name, text, for_types=for_types)
        )
        found[name] = frozenset(filter(None, wanted)) - {name}
    return found


@cache
def imported(name: str, text: str, *, for_types: bool = False) -> Sequence[str]:
    """Return the dotted name of each import; of `from a import b` it is `a.b`, even if b is no module."""
    found: list[str] = []
    tree = ast.parse(text)
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if not for_types
        and isinstance(block, ast.If)
        and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: -node.level] if node.level else []
            stem = [*parents, *filter(None, [node.module])]
            found += (".".join([*stem, alias.name]) for alias in node.names)
    return found


def cycles(imports: Graph) -> list[list[str]]:
    """Return modules that import each other, directly or through others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(imports[start])
        while todo:
            if (one := todo.pop()) not in seen:
                seen.add(one)
                todo += imports[one]
        return seen

    by_name = {name: reached(name) for name in imports}
    found = {
        tuple(sorted({name} | {other for other in seen if name in by_name[other]}))
        for name, seen in by_name.items()
        if name in seen
    }
    return [list(one) for one in sorted(found)]


def more_than_docstring(text: str, *names: str) -> bool:
    """Return whether a module is anything but a docstring and assignments to these names."""
    tree = ast.parse(text)
    own = [ast.unparse(node).partition(" = ")[0] for node in tree.body[1:]]
    return ast.get_docstring(tree) is None or own != [*names]
