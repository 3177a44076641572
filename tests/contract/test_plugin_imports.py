"""What files of `plugins/` may import: a folder determines where its files run, and so what they can import.

`modules` and `module_utils` run on hosts, as root, with the host's own Python; Ansible sends what they import.
`plugin_utils` runs on the control node. All checks read the text of the files, so imports below `if TYPE_CHECKING:` and
inside functions count too, because Ansible also sends those.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from scripts import imports

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
COLLECTION = "ansible_collections.celery_fleet.core.plugins"

# Packages of plugin_utils, and those that each may import besides itself and module_utils.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "desired": frozenset(),
    "pki": frozenset(),
    "preflight": frozenset({"desired", "pki"}),
    "restart": frozenset({"desired", "preflight"}),
    "run": frozenset({"desired", "pki", "preflight", "restart"}),
    "new_env": frozenset({"preflight"}),
    "scripts": frozenset(),
}
# The same inside preflight, whose file `run` combines everything.
INSIDE_PREFLIGHT: dict[str, frozenset[str]] = {
    "model": frozenset(),
    "checks": frozenset({"model"}),
    "hosts": frozenset({"model", "checks"}),
    "run": frozenset({"model", "checks", "hosts"}),
}
# Maximum bytes of all files that a module sends, little more than they have, so that growth is noticed.
LARGEST = {
    "reconcile": 229_000,
    "release": 86_000,
    "remove_application": 149_000,
    "redis_restore": 77_500,
}

# Names of modules below `plugins`, such as `module_utils.text`, with their text; of packages, with `.__init__`.
Sources = Mapping[str, str]


@cache
def delivered() -> Sources:
    """Return the text of every Python file of `plugins/`."""
    found = {
        ".".join(path.relative_to(PLUGINS).with_suffix("").parts): path.read_text()
        for path in PLUGINS.rglob("*.py")
    }
    assert found, "plugins/ has no Python"
    return found


def imported(name: str, text: str) -> Sequence[str]:
    """Return the full name of each import; for `from x import y` it is `x.y`, even if y is no module."""
    return imports.imported(f"{COLLECTION}.{name}", text, for_types=True)


def arrows(sources: Sources) -> imports.Graph:
    """Return for each module the collection's modules that it imports."""
    texts = {f"{COLLECTION}.{name}": text for name, text in sources.items()}
    return {
        name.removeprefix(f"{COLLECTION}."): frozenset(
            target.removeprefix(f"{COLLECTION}.") for target in targets
        )
        for name, targets in imports.graph(texts, for_types=True).items()
    }


def closure(start: str, edges: imports.Graph) -> set[str]:
    """Return a module and everything in the collection that it imports, with the packages around them."""
    found, ahead = set[str](), [start]
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        found.add(name)
        ahead += edges.get(name, ())
        parts = name.split(".")
        around = [".".join([*parts[:at], "__init__"]) for at in range(1, len(parts))]
        ahead += [package for package in around if package in edges]
    return found


def inside(name: str, *above: str) -> str:
    """Return the part of a name that follows these parts, a package or a file; nothing outside of them."""
    parts = name.removesuffix(".__init__").split(".")
    return parts[len(above)] if parts[: len(above)] == [*above] and len(parts) > len(above) else ""


# --- the rules: each returns what breaks it --------------------------------------------------------------


def foreign_on_hosts(sources: Sources) -> list[str]:
    """Find what modules and module_utils import besides the standard library, Ansible's module_utils and their own."""
    allowed = ("ansible.module_utils.", f"{COLLECTION}.module_utils.")
    return [
        f"{name} imports {target}"
        for name, text in sources.items()
        if name.startswith(("modules.", "module_utils."))
        for target in imported(name, text)
        if not target.startswith(allowed) and target.split(".")[0] not in sys.stdlib_module_names
    ]


def against_the_order(sources: Sources) -> list[str]:
    """Find imports in plugin_utils against the order of its packages, or of preflight's packages."""
    faults: list[str] = []
    for name, targets in arrows(sources).items():
        own = inside(name, "plugin_utils")
        if not own:
            continue
        for target in sorted(targets):
            other = inside(target, "plugin_utils")
            allowed = other == own or other in MAY_IMPORT[own]
            if other == own == "preflight":
                ours, theirs = (inside(n, "plugin_utils", "preflight") for n in (name, target))
                allowed = theirs == ours or theirs in INSIDE_PREFLIGHT.get(ours, ())
            if not allowed and inside(target, "module_utils") == "":
                faults.append(f"{name} imports {target}")
    return faults


def scripts_as_modules(sources: Sources) -> list[str]:
    """Find scripts that import more than the standard library, and imports of scripts: they are sent as text."""
    faults = [
        f"{name} imports {target}"
        for name, text in sources.items()
        if inside(name, "plugin_utils", "scripts")
        for target in imported(name, text)
        if target.split(".")[0] not in sys.stdlib_module_names
    ]
    faults += [
        f"{name} imports {target}"
        for name, targets in arrows(sources).items()
        for target in sorted(targets)
        if inside(target, "plugin_utils") == "scripts"
    ]
    return faults


def utils_that_import_plugins(sources: Sources) -> list[str]:
    """Find imports of plugins in module_utils and plugin_utils."""
    return [
        f"{name} imports {target}"
        for name, targets in arrows(sources).items()
        if name.startswith(("module_utils.", "plugin_utils."))
        for target in sorted(targets)
        if not target.startswith(("module_utils", "plugin_utils"))
    ]


def not_relative(sources: Sources) -> list[str]:
    """Find imports of plugin_utils in plugin_utils, or of module_utils in module_utils, by the full name."""
    return [
        f"{name} imports {side}"
        for name, text in sources.items()
        for side in ("plugin_utils", "module_utils")
        if name.startswith(f"{side}.") and f"from {COLLECTION}.{side}" in text
    ]


def pki_on_hosts(sources: Sources) -> list[str]:
    """Find import paths from code that runs on hosts to the code for the authorities' keys."""
    edges = arrows(sources)
    return [
        f"{name} reaches {target}"
        for name in edges
        if name.startswith(("modules.", "module_utils."))
        for target in sorted(closure(name, edges))
        if inside(target, "plugin_utils") == "pki"
    ]


def circles(sources: Sources) -> list[list[str]]:
    """Find files that import each other, directly or through others."""
    return imports.cycles(arrows(sources))


def sent_with(module: str, sources: Sources) -> set[str]:
    """Return the files of the collection that Ansible sends for a module, the module included."""
    return closure(f"modules.{module}", arrows(sources))


# --- the delivered files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        foreign_on_hosts,
        against_the_order,
        scripts_as_modules,
        utils_that_import_plugins,
        not_relative,
        pki_on_hosts,
        circles,
    ],
)
def test_the_files_keep_the_rule(rule) -> None:
    assert rule(delivered()) == []


def test_the_order_names_every_package() -> None:
    there = {inside(name, "plugin_utils") for name in delivered()} - {""}
    assert there == MAY_IMPORT.keys()
    there = {inside(name, "plugin_utils", "preflight") for name in delivered()} - {""}
    assert there == INSIDE_PREFLIGHT.keys()


def test_packages_hold_a_docstring_only() -> None:
    packages = {name: text for name, text in delivered().items() if name.endswith(".__init__")}
    assert packages
    assert [name for name, text in packages.items() if imports.more_than_docstring(text)] == []


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(LARGEST))
def test_a_module_sends_module_utils_only_and_stays_small(module: str) -> None:
    files = sent_with(module, delivered()) - {f"modules.{module}"}
    assert [name for name in sorted(files) if not name.startswith("module_utils.")] == []
    size = sum(len(delivered()[name].encode()) for name in {f"modules.{module}", *files})
    print(f"{module}: {len(files)} files of module_utils, {size} bytes with the module")
    assert size <= LARGEST[module], (
        f"{module} grew to {size} bytes, which travel with every call: see what it imports"
    )


@pytest.mark.slow
def test_every_module_that_is_sent_has_a_size_limit() -> None:
    """The other modules only document an action plugin."""
    edges = arrows(delivered())
    modules = {f"modules.{name}" for name in LARGEST}
    found = {name for name in edges if inside(name, "modules")}
    assert {name for name in found if closure(name, edges) != {name}} == modules


# --- the rules can be broken -----------------------------------------------------------------------------


def made(**texts: str) -> dict[str, str]:
    """Make sources from names with `__` for each dot; `OUR` in a text is the collection."""
    return {
        name.replace("__", "."): text.replace("OUR", COLLECTION) for name, text in texts.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "import yaml\n",
        "import os, yaml\n",
        "from yaml import safe_load\n",
        "from ansible.errors import AnsibleError\n",
        "from ansible_collections.community.crypto.plugins.module_utils import version\n",
        "from OUR.plugin_utils.desired import workers\n",
        "from ...plugin_utils.desired import workers\n",
        "from OUR.module_utils_of_others import text\n",
        "def f() -> None:\n    import yaml\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import yaml\n",
    ],
)
def test_a_foreign_import_on_hosts_is_found(text: str) -> None:
    sources = made(module_utils__reconcile__files=text)
    (fault,) = foreign_on_hosts(sources)
    assert fault.startswith("module_utils.reconcile.files imports ")


def test_imports_that_hosts_have_are_allowed() -> None:
    text = (
        "from __future__ import annotations\nimport os.path\nfrom ansible.module_utils.basic import AnsibleModule\n"
        "from OUR.module_utils import text\nfrom . import outcome\n"
    )
    sources = made(module_utils__reconcile__files=text, plugin_utils__pki__x509="import yaml\n")
    assert foreign_on_hosts(sources) == []


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("desired.workers", "pki.x509"),
        ("pki.x509", "desired.workers"),
        ("desired.workers", "preflight.run"),
        ("preflight.model.inventory", "restart.order"),
        ("preflight.model.inventory", "preflight.checks.names"),
        ("preflight.checks.names", "preflight.hosts.owners"),
        ("preflight.hosts.owners", "preflight.run"),
        ("restart.order", "pki.x509"),
        ("restart.order", "run.plan"),
        ("run.plan", "new_env.options"),
        ("new_env.options", "run.plan"),
        ("run.plan", "scripts.lease"),
    ],
)
def test_an_import_against_the_order_is_found(importer: str, target: str) -> None:
    package, _, name = target.rpartition(".")
    sources = {
        f"plugin_utils.{importer}": f"from {COLLECTION}.plugin_utils.{package} import {name}\n",
        f"plugin_utils.{target}": "",
    }
    assert against_the_order(sources) == [f"plugin_utils.{importer} imports plugin_utils.{target}"]


def test_imports_along_the_order_are_allowed() -> None:
    sources = made(
        plugin_utils__run__plan="from OUR.plugin_utils.restart.order import Worker\n",
        plugin_utils__restart__order="from OUR.plugin_utils.desired import workers\n",
        plugin_utils__preflight__run="from OUR.plugin_utils.preflight.hosts import owners\n",
        plugin_utils__preflight__hosts__owners="from OUR.plugin_utils.pki import x509\n",
        plugin_utils__desired__workers="from OUR.module_utils import text\n",
        plugin_utils__pki__x509="import cryptography\nfrom . import chain\n",
        plugin_utils__pki__chain="",
        module_utils__text="",
    )
    assert against_the_order(sources) == []


def test_a_full_name_inside_of_its_own_package_is_found() -> None:
    inner, across = (
        "from OUR.plugin_utils.desired import acl\n",
        "from OUR.module_utils import text\n",
    )
    assert not_relative(made(plugin_utils__run__plan=inner + across)) != []
    assert not_relative(made(plugin_utils__run__plan=across, action__release=inner)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plugin_utils.scripts.turn", "import yaml\n"),
        ("plugin_utils.scripts.turn", "from OUR.module_utils import text\n"),
        ("action.rolling_restart", "from OUR.plugin_utils.scripts import lease\n"),
        ("action.rolling_restart", "from OUR.plugin_utils.scripts.lease import LOCK\n"),
    ],
)
def test_a_script_that_is_used_as_a_module_is_found(name: str, text: str) -> None:
    sources = {"plugin_utils.scripts.lease": "", "module_utils.text": ""}
    assert len(scripts_as_modules({**sources, name: text.replace("OUR", COLLECTION)})) == 1


def test_a_script_that_only_uses_the_standard_library_is_allowed() -> None:
    assert scripts_as_modules({"plugin_utils.scripts.lease": "import os\nimport json\n"}) == []


def test_an_import_of_a_plugin_is_found() -> None:
    sources = made(
        plugin_utils__run__plan="from OUR.action.reconcile import ActionModule\n",
        action__reconcile="",
    )
    assert utils_that_import_plugins(sources) == ["plugin_utils.run.plan imports action.reconcile"]


def test_an_import_path_from_hosts_to_the_authorities_is_found() -> None:
    sources = made(
        modules__reconcile="from OUR.module_utils.reconcile import files\n",
        module_utils__reconcile__files="from OUR.plugin_utils.desired.acl import acl\n",
        plugin_utils__desired__acl="from ..pki.records import CertificateRecord\n",
        plugin_utils__pki__records="",
    )
    assert pki_on_hosts(sources) == [
        "modules.reconcile reaches plugin_utils.pki.records",
        "module_utils.reconcile.files reaches plugin_utils.pki.records",
    ]


def test_a_circle_is_found() -> None:
    sources = made(
        module_utils__a="from OUR.module_utils import b\n",
        module_utils__b="from OUR.module_utils.c import f\n",
        module_utils__c="def f():\n    from OUR.module_utils import a\n",
        module_utils__d="from OUR.module_utils import a\n",
    )
    assert circles(sources) == [[f"module_utils.{name}" for name in "abc"]]


@pytest.mark.parametrize("text", ["", "import os\n", '"""A docstring."""\nX = 1\n', "1\n"])
def test_a_package_with_more_than_a_docstring_is_found(text: str) -> None:
    assert imports.more_than_docstring(text)
    assert not imports.more_than_docstring('"""A docstring."""\n')


def test_what_a_module_sends_is_followed_over_all_its_imports() -> None:
    sources = made(
        modules__reconcile="from OUR.module_utils.reconcile.reconciler import reconcile\n",
        module_utils__reconcile__reconciler="def f():\n    from ...plugin_utils.run import plan\n",
        plugin_utils__run__plan="",
        module_utils__text="",
    )
    for package in ("module_utils.reconcile", "plugin_utils"):
        sources[f"{package}.__init__"] = '"""Package."""\n'
    assert sent_with("reconcile", sources) == sources.keys() - {"module_utils.text"}
