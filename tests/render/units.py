"""Parse units as systemd reads them, and render single templates as the reconciler does."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.render.fleet import ROOT, Fleet, Host

TEMPLATES = ROOT / "templates"
_ALL = {path.name.removesuffix(".j2"): path for path in TEMPLATES.glob("systemd/*.service.j2")}
# Units that end when their work is done, and units that run all the time.
ONCE = sorted(name for name, path in _ALL.items() if "systemd/_once.j2" in path.read_text())
# Running services; a unit that a timer starts, and that ends, is not among them.
SERVICES = sorted(
    name
    for name, path in _ALL.items()
    if name not in ONCE and "Type=oneshot" not in path.read_text()
)
# Units that all applications of a host share.
SHARED = ("nginx.service", "celery-fleet-node-exporter.service")
Sections = dict[str, dict[str, list[str]]]


def parse(text: str) -> Sections:
    """Return sections, keys and values of a unit and its drop-ins in order; an empty value removes earlier ones."""
    found: Sections = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.strip() and not line.startswith(("#", ";")):
            key, equals, value = line.partition("=")
            assert equals, line
            values = found[section][key]
            if value:
                values.append(value)
            else:
                values.clear()
    return found


def template_of(host: Host, unit: str) -> str:
    """Return the name of the file from which a unit is made."""
    name, at, rest = unit.partition("@")
    return f"{name}@.{rest.rpartition('.')[2]}" if at else unit


def whole(host: Host, unit: str) -> str:
    """Return a unit's file followed by its drop-ins, with its instance filled in."""
    files = host.unit_files()
    drop_ins = [text for path, text in sorted(files.items()) if path.startswith(f"{unit}.d/")]
    instance = unit.partition("@")[2].rpartition(".")[0]
    text = "\n".join([files[template_of(host, unit)], *drop_ins])
    return text.replace("%i", instance)


def services(fleet: Fleet, template: str) -> list[tuple[Host, str]]:
    """Return every unit of the fleet that is made from a template in templates/systemd, with its host."""
    found = []
    for host in fleet.hosts.values():
        app = host.variables["celery_app_name"]
        fleets = [unit for unit in host.units if template_of(host, unit) in host.unit_files()]
        found += [
            (host, unit)
            for unit in fleets
            if template_of(host, unit)
            in (template, f"{app}-{template}", f"celery-fleet-{template}")
        ]
    return found


def covered(path: str, host: Host) -> bool:
    """Return whether a path, or at least one path of a pattern, is a file that the reconciler puts on the host."""
    return path in host.files or bool(fnmatch.filter(host.files, path))


def render(source: str, variables: Mapping[str, Any]) -> str:
    """Render one template with the test's variables."""
    path = TEMPLATES / source
    templar = Templar(loader=DataLoader(), variables=dict(variables)).copy_with_new_env(
        searchpath=[str(path.parent), str(TEMPLATES)], available_variables=dict(variables)
    )
    text = trust_as_template(Path(path).read_text())
    rendered = templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True})
    return f"{rendered}\n"
