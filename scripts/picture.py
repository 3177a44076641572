"""Draw docs/architecture.svg: the roles of a deploy from site.yml's halves, the packages of both trees from imports.

    python scripts/picture.py           write the picture
    python scripts/picture.py --check   check that it is up to date; exit status 1 if not

A new package needs a place in `CONTROL`, `MODULES` or `HOST`. An arrow is left out if it follows from others.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.imports import graph

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "architecture.svg"
WIDTH, HEIGHT, BOX, HIGH, COLUMN = 980, 1114, 132, 44, 145
# What the main tasks of a role do that has other parts in the deploy, too.
MAIN = {"fleet": "plan", "celery_beat": "beat", "celery_release": "build"}
# Plugins that import nothing of the collection share a box.
SMALL = ("callback", "inventory", "lookup", "vars")
SHARED = "callback, vars"


@dataclass(frozen=True)
class Tree:
    """Packages in a frame. `places` has column, row and second line of each package."""

    title: str
    note: str
    left: int
    top: int
    height: int
    row: int
    places: dict[str, tuple[int, int, str]]

    def corner(self, name: str) -> tuple[int, int]:
        """Return the upper left corner of a package's box."""
        column, row, _ = self.places[name]
        return self.left + 16 + column * COLUMN, self.top + 58 + row * self.row


CONTROL = Tree("plugins/", "on the control node", 24, 300, 350, 76, {
    "filter": (0, 0, "called by roles"), "action": (1, 0, "called by roles"), SHARED: (2, 0, "inventory, lookup"),
    "new_env": (1, 1, "new environments"), "run": (2, 1, "lease, plan, report"),
    "preflight": (1, 2, "refuses mistakes"), "restart": (2, 2, "rolling restart"),
    "pki": (0, 3, "certificates"), "desired": (1, 3, "inventory → host"),
})  # fmt: skip
MODULES = Tree("plugins/modules, module_utils, scripts", "on hosts, during a call", 24, 692, 398, 70, {
    "scripts": (0, 0, "sent as text"), "modules": (1, 0, "called by plugins"), "removal": (1, 1, "off the hosts"),
    "reconcile": (1, 2, "files, units, Redis"), "release": (1, 3, "builds, notes"),
    "restore": (0, 3, "Redis's data"), "module_utils": (1, 4, "small helpers"),
})  # fmt: skip
HOST = Tree("src/celery_fleet/", "on hosts, between runs", 502, 300, 790, 96, {
    "probe": (1, 0, "an old name"), "cli": (2, 0, "operator's command"),
    "loader": (0, 1, "Celery's entry point"), "release": (1, 1, "checks releases"), "ops": (2, 1, "release's Python"),
    "worker": (0, 2, "a worker's life"), "beat": (1, 2, "beat, schedule"), "system": (2, 2, "started by systemd"),
    "config": (1, 3, "settings"), "health": (2, 3, "checks by a timer"),
    "delivery": (1, 4, "fetch, lease, return"), "supervision": (1, 5, "watchdog, readiness"),
    "compat": (1, 6, "minors of Celery"), "common": (1, 7, "standard library"),
})  # fmt: skip
HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t">
<title id="t">The roles of a deploy, and the packages of plugins/ and src/celery_fleet/ with their imports</title>
<style>
text {{ font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; text-anchor: middle; fill: #24292f; }}
.note {{ font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #57606a; }}
.head {{ font: 600 15px system-ui, "DejaVu Sans", sans-serif; }}
.left {{ text-anchor: start; }}
.sheet {{ fill: #fff; stroke: #d0d7de; }} .frame {{ fill: #f6f8fa; stroke: #d0d7de; }}
.box {{ fill: #fff; stroke: #8c959f; }}
.import, .data, .next {{ fill: none; stroke-width: 1.6; }}
.import {{ stroke: #1f6fb5; marker-end: url(#import); }} .import-tip {{ fill: #1f6fb5; }}
.data {{ stroke: #b35900; stroke-dasharray: 5 4; marker-end: url(#data); }} .data-tip, .data-text {{ fill: #b35900; }}
.next {{ stroke: #57606a; marker-end: url(#next); }} .next-tip {{ fill: #57606a; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }} .note {{ fill: #a3adb8; }}
.sheet {{ fill: #16191d; stroke: #343a41; }} .frame {{ fill: #1b2026; stroke: #343a41; }}
.box {{ fill: #262d35; stroke: #6e7781; }}
.import {{ stroke: #6cb6ff; }} .import-tip {{ fill: #6cb6ff; }}
.next {{ stroke: #a3adb8; }} .next-tip {{ fill: #a3adb8; }}
.data {{ stroke: #f0a35e; }} .data-tip, .data-text {{ fill: #f0a35e; }}
}}
</style>
<rect class="sheet" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>"""
TIP = """\
<marker id="{0}" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="8" markerHeight="8" orient="auto" \
markerUnits="userSpaceOnUse"><path class="{0}-tip" d="M0 0L8 4L0 8z"/></marker>"""
# What Ansible and systemd connect, and the legend.
LABELS = """\
<path class="data" d="M106 260v30"/><text class="note data-text left" x="118" y="284">\
roles call filters and action plugins, with data</text>
<path class="data" d="M106 650v32"/><text class="note data-text left" x="118" y="676">\
Ansible runs modules, plugins send scripts</text>
<path class="data" d="M360 839H492"/><text class="note data-text left" x="370" y="831">units, settings</text>
<path class="data" d="M520 978h40"/><text class="note left" x="574" y="982">calls, data</text>
<path class="import" d="M520 1008h40"/><text class="note left" x="574" y="1012">imports; one that</text>
<text class="note left" x="520" y="1030">follows from others</text>
<text class="note left" x="520" y="1048">is left out</text>
</svg>
"""


def deploy(playbook: str) -> list[tuple[str, str]]:
    """Return the roles of a playbook in order, each with the names of its parts, if it has several."""
    found: list[tuple[str, list[str]]] = []
    # After a quotation mark it is a lookup, in `hosts` of a play. The role celery_app has no tasks.
    for role, part in re.findall(
        r"(?<!')(?<!playbook: )celery_fleet\.core\.(?!celery_app\b)(\w+)(?:\n +tasks_from: (\w+))?",
        playbook,
    ):
        if not found or found[-1][0] != role:
            found.append((role, []))
        found[-1][1].append(part)
    return [
        (role, "" if parts == [""] else ", ".join(part or MAIN[role] for part in parts))
        for role, parts in found
    ]


def package(parts: tuple[str, ...]) -> str:
    """Return the package of a file below `plugins/` or `src/celery_fleet/`."""
    inner = len(parts) > 2 and parts[0] in ("plugin_utils", "module_utils")
    return parts[1] if inner else SHARED if parts[0] in SMALL else parts[0]


def imports(top: Path, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield each pair of packages below `top` of which the first imports the second."""
    texts = {
        ".".join((prefix, *path.relative_to(top).with_suffix("").parts)): path.read_text()
        for path in top.rglob("*.py")
        if path.name != "__init__.py"
    }

    def home(name: str) -> str:
        return package(tuple(name.removeprefix(f"{prefix}.").split(".")))

    for name, targets in graph(texts).items():
        yield from ((home(name), home(one)) for one in targets if home(one) != home(name))


def needed(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out pairs that follow from others."""

    def reached(start: str) -> set[str]:
        direct = {b for a, b in pairs if a == start}
        return direct.union(*map(reached, direct))

    return sorted((a, b) for a, b in pairs if not any(x == a and b in reached(y) for x, y in pairs))


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a text."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def box(x: float, y: float, width: float, title: str, note: str) -> str:
    """Return a box with one line or two."""
    shape = f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" height="{HIGH}" rx="5"/>'
    lines = text(x + width / 2, y + (19 if note else 27), title)
    return shape + lines + (text(x + width / 2, y + 36, note, "note") if note else "")


def frame(x: int, y: int, width: int, height: int, title: str, note: str) -> str:
    """Return a frame with its heading."""
    heading = text(x + 16, y + 26, title, "head left") + text(x + 16, y + 44, note, "note left")
    shape = f'<rect class="frame" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    return shape + heading


def steps(roles: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the boxes of a deploy, each with an arrow to the next."""
    x, y, gap = 40.0, 84, 26
    yield frame(
        24,
        24,
        WIDTH - 48,
        236,
        "playbooks/site.yml",
        "a deploy: its roles in order, with their parts",
    )
    for role, parts in roles:
        width = max(len(role) * 8, len(parts) * 6.6) + 18
        if x + width > WIDTH - 40:
            x, y = 40, y + HIGH + 16
        if x > 40:
            yield f'<path class="next" d="M{x - gap + 2:g} {y + HIGH / 2:g}h{gap - 11}"/>'
        yield box(x, y, width, role, parts)
        x += width + gap


def packages(pairs: set[tuple[str, str]], *trees: Tree) -> Iterator[str]:
    """Yield some trees with their imports. One from another tree is an arrow with the importer's name."""
    homes = {name: tree for tree in trees for name in tree.places}
    if missing := {name for pair in pairs for name in pair} - homes.keys():
        raise SystemExit(f"without a place in scripts/picture.py: {', '.join(sorted(missing))}")
    for tree in trees:
        yield frame(tree.left, tree.top, 454, tree.height, tree.title, tree.note)
        yield from (
            box(*tree.corner(name), BOX, name, tree.places[name][2]) for name in tree.places
        )
    for a, b in needed(pairs):
        (x1, y1), (x2, y2), bend = homes[a].corner(a), homes[b].corner(b), homes[b].row - HIGH
        if homes[a] is homes[b]:
            x1, x2, y = x1 + BOX // 2, x2 + BOX // 2, y2 - bend
            curve = f"C{x1} {y2 - 8} {x2} {y + 8} {x2} {y2 - 7}"
            yield f'<path class="import" d="M{x1} {y1 + HIGH}V{y}{curve}"/>'
        else:
            yield f'<path class="import" d="M{x2 + BOX + 44} {y2 + HIGH // 2}h-37"/>'
            yield text(x2 + BOX + 52, y2 + HIGH // 2 + 4, a, "left")


def draw() -> str:
    """Return the picture."""
    control = set(imports(ROOT / "plugins", "ansible_collections.celery_fleet.core.plugins"))
    host = set(imports(ROOT / "src" / "celery_fleet", "celery_fleet"))
    halves = [(ROOT / "playbooks" / name).read_text() for name in ("prepare.yml", "serve.yml")]
    roles = deploy("\n".join(halves))
    tips = [TIP.format(name) for name in ("import", "data", "next")]
    trees = [*packages(control, CONTROL, MODULES), *packages(host, HOST)]
    return "\n".join([HEAD, *tips, *steps(roles), *trees, LABELS])


def main(arguments: list[str]) -> int:
    """Write the picture, or compare it."""
    picture = draw()
    if "--check" not in arguments:
        OUTPUT.write_text(picture)
    elif not OUTPUT.is_file() or OUTPUT.read_text() != picture:
        print("docs/architecture.svg is stale: run `python scripts/picture.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
