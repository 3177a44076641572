"""What files of the host side may import, and that some need only the standard library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from scripts.imports import Graph, cycles, graph, more_than_docstring

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

#: The packages of the host side. Each imports only from those before it.
PACKAGES = (
    *("common", "compat", "supervision", "delivery", "config", "worker", "beat"),
    *("health", "system", "loader", "release", "ops", "probe", "cli"),
)

#: The parts of `delivery`, and which others each may import. The files beside them import none.
PARTS: Mapping[str, frozenset[str]] = {
    "outage": frozenset(),
    "dead_letters": frozenset({"outage"}),
    "hand_back": frozenset({"outage", "dead_letters"}),
    "fetch": frozenset({"outage", "dead_letters", "hand_back"}),
    "lease": frozenset({"outage", "dead_letters", "hand_back"}),
}

#: Packages whose files need only the standard library when they are imported.
PLAIN = ("common", "health", "system")

#: Packages with files that systemd starts by their path: a file's name must not hide a module of the standard library.
BY_PATH = ("health", "system")


def sources() -> dict[str, str]:
    """Return the dotted name of each module of the host side, `.__init__` included, with its text."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path.read_text()
        for path in sorted((SOURCE / "celery_fleet").rglob("*.py"))
    }


def upward(imports: Graph) -> list[str]:
    """Return imports of packages that come later in the order, or of forbidden parts of `delivery`."""
    wrong = []
    for name, others in imports.items():
        for other in sorted(others):
            here, there = name.split(".")[1:], other.split(".")[1:]
            if there == ["__init__"]:  # the package itself, for its version
                continue
            if here[0] != there[0]:
                allowed = PACKAGES.index(there[0]) < PACKAGES.index(here[0])
            elif here[0] == "delivery" and there[1] in PARTS and here[1] != there[1]:
                allowed = there[1] in PARTS.get(here[1], ())
            else:
                allowed = True
            if not allowed:
                wrong.append(f"{name} imports {other}")
    return wrong


def not_only_docstring(texts: Mapping[str, str]) -> list[str]:
    """Return the `__init__.py` files with more than a docstring; the topmost also has the version."""
    more = {"celery_fleet.__init__": ["__version__"]}
    packages = [name for name in texts if name.endswith(".__init__")]
    return [name for name in packages if more_than_docstring(texts[name], *more.get(name, []))]


def hidden(names: Iterable[str]) -> list[str]:
    """Return dotted names that end in the name of a module of the standard library."""
    return [name for name in names if name.rpartition(".")[2] in sys.stdlib_module_names]


def starts(module: str, source: Path) -> subprocess.CompletedProcess[str]:
    """Import a module with only the standard library."""
    code = f"import sys; sys.path.insert(0, {str(source)!r}); import {module}"
    return subprocess.run(
        [sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, check=False
    )


def _of(packages: Iterable[str]) -> list[str]:
    """Return the modules of some packages and of their subpackages."""
    return [
        name
        for name in sources()
        if name.split(".")[1] in packages and not name.endswith("__init__")
    ]


def test_every_package_has_its_place_in_the_order() -> None:
    found = {name.split(".")[1] for name in sources()} - {"__init__"}
    assert found == set(PACKAGES)
    parts = {
        name.split(".")[2] for name in sources() if name.count(".") > 2 and ".delivery." in name
    }
    assert parts == set(PARTS)


def test_a_package_imports_only_from_those_before_it() -> None:
    assert upward(graph(sources())) == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycles(graph(sources())) == []


def test_packages_only_have_a_docstring() -> None:
    assert not_only_docstring(sources()) == []


@pytest.mark.slow
@pytest.mark.parametrize("module", _of(PLAIN))
def test_a_module_only_needs_the_standard_library(module: str) -> None:
    done = starts(module, SOURCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_that_systemd_starts_hides_a_standard_module() -> None:
    names = _of(BY_PATH)
    assert names
    assert hidden(names) == []


# --- that each of these can fail ---


WITH = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from celery_fleet.cli import late
"""


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("common.a", "from celery_fleet.config import b", "celery_fleet.config.b"),
        ("common.a", "def f():\n    import celery_fleet.config.b", "celery_fleet.config.b"),
        ("common.a", "from ..config.b import x", "celery_fleet.config.b"),
        ("delivery.outage.a", "from ..lease.b import x", "celery_fleet.delivery.lease.b"),
        ("delivery.tags", "from .lease import b", "celery_fleet.delivery.lease.b"),
        (
            "delivery.fetch.a",
            "import celery_fleet.delivery.lease.b",
            "celery_fleet.delivery.lease.b",
        ),
        ("cli.a", "from celery_fleet.config import b", None),
        ("delivery.lease.a", "from celery_fleet.delivery.outage.a import x", None),
        ("delivery.lease.a", "from . import b", None),
        ("common.a", WITH, None),
        ("common.a", "from celery_fleet import __version__", None),
    ],
)
def test_an_import_of_what_comes_later_is_found(name: str, text: str, wrong: str | None) -> None:
    others = ("config.b", "delivery.lease.b", "delivery.outage.a", "cli.late", "config.__init__")
    texts = {f"celery_fleet.{one}": "" for one in (*others, "__init__", "delivery.lease.__init__")}
    texts[f"celery_fleet.{name}"] = text
    assert upward(graph(texts)) == ([f"celery_fleet.{name} imports {wrong}"] if wrong else [])


def test_a_cycle_is_found() -> None:
    texts = {
        "celery_fleet.common.a": "from celery_fleet.common import b",
        "celery_fleet.common.b": "def f():\n    from celery_fleet.common.c import x",
        "celery_fleet.common.c": "import celery_fleet.common.a",
        "celery_fleet.common.d": "import celery_fleet.common.a",
    }
    assert cycles(graph(texts)) == [[f"celery_fleet.common.{name}" for name in "abc"]]
    texts["celery_fleet.common.c"] = WITH.replace("cli import late", "common import a")
    assert cycles(graph(texts)) == []


def test_more_than_a_docstring_is_found() -> None:
    texts = {
        "celery_fleet.__init__": '"""Text."""\n__version__ = "1"',
        "celery_fleet.a.__init__": '"""Text."""\n__version__ = "1"',
        "celery_fleet.b.__init__": '"""Text."""\nfrom celery_fleet.b import c',
        "celery_fleet.c.__init__": "",
        "celery_fleet.d.__init__": '"""Text."""',
        "celery_fleet.d.e": "x = 1",
    }
    assert not_only_docstring(texts) == [f"celery_fleet.{name}.__init__" for name in "abc"]


def test_foreign_imports_and_hidden_modules_are_found(tmp_path: Path) -> None:
    (tmp_path / "asks_celery.py").write_text("import celery\n")
    (tmp_path / "asks_later.py").write_text("def f():\n    import celery\n")
    assert "No module named 'celery'" in starts("asks_celery", tmp_path).stderr
    assert starts("asks_later", tmp_path).returncode == 0
    names = ["celery_fleet.system.stop", "celery_fleet.system.select"]
    assert hidden(names) == ["celery_fleet.system.select"]
