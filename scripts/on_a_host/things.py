"""Collect what renders put on hosts, by kind and name, with placeholders for what belongs to one inventory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from scripts.on_a_host.words import PORTS_ROLE
from tests.render.fleet import Fleet, Host

ROOT = Path(__file__).resolve().parents[2]
# As in `module_utils/release/virtualenv.py`, which only the tests can import.
VIRTUALENVS = "virtualenvs"
_UNIT_FILE = re.compile(
    r"/etc/systemd/system/([^/]+\.(?:service|socket|timer|target|slice))(\.d/[^/]+\.conf)?"
)
_SYSTEMD = {
    "RuntimeDirectory": "/run/",
    "StateDirectory": "/var/lib/",
    "LogsDirectory": "/var/log/",
    "CacheDirectory": "/var/cache/",
}


@dataclass
class Thing:
    """Something on a host, as all renders together describe it.

    Attributes:
        cells: Its description, after its name.
        roles: The roles that put it there.
        default: Whether a fleet has it by default.
    """

    cells: tuple[str, ...]
    roles: set[str] = field(default_factory=set)
    default: bool = False


@dataclass
class Page:
    """Everything that the page shows.

    Attributes:
        things: Things by kind and name.
        holds: Secrets in each file with secrets, by its name.
        readers: Who can open each of these files.
        given: Units to which systemd gives a file, each with whether this is in a fleet with the defaults.
    """

    things: dict[str, dict[str, Thing]] = field(default_factory=dict)
    holds: dict[str, set[str]] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    given: dict[str, dict[str, set[bool]]] = field(default_factory=dict)

    def add(self, kind: str, name: str, cells: Iterable[str], role: str, default: bool) -> None:
        """Add a thing, or another role or fleet that has it."""
        found = self.things.setdefault(kind, {}).setdefault(name, Thing(tuple(cells)))
        found.roles.add(role)
        found.default = found.default or default


def general(text: str, app: str, workers: Iterable[str]) -> str:
    """Return a path or name with placeholders for what belongs to one inventory."""
    text = text.replace(app.replace("-", r"\x2d") + ".slice", "<app>.slice").replace(app, "<app>")
    names = "|".join(map(re.escape, workers))
    text = re.sub(rf"(worker[@-])({names})(?![\w-])", r"\1<worker>", text)
    text = text.replace("%i", "<worker>").replace("%n", "<unit>")
    text = re.sub(r"/usr/lib/celery-fleet/\d[\w.+-]*", "/usr/lib/celery-fleet/<version>", text)
    return re.sub(r"(releases/)[0-9a-f]{12}", r"\1<id>", text)


def rights(item: Mapping[str, Any], mode: str) -> tuple[str, str]:
    """Return owner with group, and mode, as cells; empty if they are the usual ones."""
    owner, group = item.get("owner", "root"), item.get("group", "root")
    who = "" if owner == group == "root" else f"`{owner}:{group}`"
    given = str(item.get("mode", mode))
    return who, "" if given == mode else f"`{given}`"


def readable(item: Mapping[str, Any]) -> str:
    """Return who can open a file, from its owner, group and mode."""
    mode = int(str(item.get("mode", "0644")), 8)
    owner, group = item.get("owner", "root"), item.get("group", "root")
    who = ["root"] if owner == "root" else ["root", f"`{owner}`"]
    if mode & 0o040 and group != "root":
        who.append(f"group `{group}`")
    return "everybody" if mode & 0o004 else ", ".join(who)


def spellings(secret: str) -> set[str]:
    """Return the forms in which a file may contain a secret: plain, in JSON, in a URL, in an environment file."""
    escaped = re.sub(r'(["\\$`])', r"\\\1", secret)
    return {
        secret,
        quote(secret, safe=""),
        escaped,
        secret.replace("\\", "\\\\").replace('"', '\\"'),
    }


def handed(text: str) -> Iterator[str]:
    """Yield the paths that systemd reads as root and gives to a unit's process."""
    for value in re.findall(r"^(?:EnvironmentFile|LoadCredential)=(.+)$", text, re.MULTILINE):
        yield value.rpartition(":")[2].lstrip("-")


def directories(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the directories that systemd creates for a unit: path, owner, mode."""
    options = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    user = options.get("User", "root")
    for kind, parent in _SYSTEMD.items():
        for name in options.get(kind, "").split():
            owner = f"`{user}:{options.get('Group', user)}`" if user != "root" else ""
            mode = options.get(f"{kind}Mode", "0755")
            yield f"{parent}{name}", owner, "" if mode == "0755" else f"`{mode}`"


def accounts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the users and groups in a file for systemd-sysusers, and what each is."""
    for line in text.splitlines():
        match line.split(maxsplit=2):
            case ["g", name, _]:
                yield name, "group"
            case ["u", name, rest]:
                home = rest.split()[-1]
                yield name, f"user and group, no login; home `{home}`"
            case ["m", name, group]:
                yield name, f"Debian's; made a member of `{group}`"


def role_of(part: str) -> str:
    """Return the role of a part of the plan; the part's name starts with the role's."""
    names = [path.name for path in (ROOT / "roles").iterdir() if path.is_dir()]
    return max((name for name in names if part.startswith(name)), key=len)


def take(page: Page, fleet: Fleet, default: bool) -> None:
    """Add everything of a fleet to the page."""
    for host in fleet.hosts.values():
        take_host(page, fleet, host, default)


def take_host(page: Page, fleet: Fleet, host: Host, default: bool) -> None:
    """Add everything of a host to the page."""
    app = str(host.variables["celery_app_name"])
    plain = partial(general, app=app, workers=host.variables["celery_worker_instances"])
    for name_, part in host.parts.items():
        role = role_of(name_)
        for item in part.get("sysusers", []):
            for name, what in accounts(item["content"]):
                page.add("accounts", plain(name), [plain(what)], role, default)
        for item in [*part.get("sysusers", []), *part.get("files", [])]:
            name = plain(item["dest"])
            if "/<version>/" in name:
                continue  # the runtime's
            who, mode = rights(item, "0644")
            kind = "secrets" if item.get("secret") else "files"
            page.add(kind, name, [plain(who), mode], role, default)
            if kind == "secrets":
                page.readers.setdefault(name, set()).add(plain(readable(item)))
                known = page.holds.setdefault(name, set())
                # The demo's secrets have different names.
                known |= set() if default else held(fleet, item["content"])
            if name.endswith("/fleet.json"):
                for port, number in yaml.safe_load(item["content"])["ports"].items():
                    page.add("ports", port, [str(number)], PORTS_ROLE[port], default)
        for item in part.get("directories", []):
            declared = item["path"] in host.variables["celery_app_directories"]
            name = "<directory>" if declared else plain(item["path"])
            if "/<version>/" not in name:
                who, mode = rights(item, "0755")
                page.add("directories", name, [plain(who), mode], role, default)
        for item in part.get("releases", []):
            name = plain(item["path"])
            virtualenv = f"{name.removesuffix('releases/<id>')}{VIRTUALENVS}/<virtualenv>"
            for path in (name, virtualenv):
                page.add("directories", path, ["", ""], role, default)
        for item in part.get("data", []):
            if item.get("whole", True):
                kept = f"`{item['keep']}`" if item.get("keep") else ""
                page.add("data", plain(item["path"]), [kept], role, default)
        for item in part.get("links", []):
            page.add("links", plain(item["path"]), [f"`{plain(item['target'])}`"], role, default)
        take_units(page, part, role, plain, default)


def take_units(
    page: Page,
    part: Mapping[str, Any],
    role: str,
    plain: Callable[[str], str],
    default: bool,
) -> None:
    """Add the units of a part to the page: those with our files, and Debian's units that it starts."""
    for item in part.get("files", []):
        found = _UNIT_FILE.fullmatch(item["dest"])
        if found is None:
            continue
        name, text = plain(found[1]), plain(item["content"])
        instance = "<worker>" if name.startswith("<app>-worker") else "<instance>"
        name, text = name.replace("@.", f"@{instance}."), text.replace("<worker>", instance)
        for path in handed(text):
            page.given.setdefault(path, {}).setdefault(f"`{name}`", set()).add(default)
        for path, who, mode in directories(text):
            page.add("made", path, [who, mode, f"`{name}`"], role, default)
        if not found[2]:
            page.add("units", name, [described(text), runs_as(name, text)], role, default)
    for item in part.get("units", []):
        if item["name"] == "nginx.service":
            page.add("units", item["name"], ["Debian's", ""], role, default)


def described(text: str) -> str:
    """Return a unit's description."""
    said = re.search(r"^Description=(.*)$", text, re.MULTILINE)
    return re.sub(r"^<app>: | <\w+>$", "", said[1]) if said else ""


def runs_as(name: str, text: str) -> str:
    """Return the user of a service's process."""
    user = re.search(r"^User=(.*)$", text, re.MULTILINE)
    if not name.endswith(".service"):
        return ""
    if re.search(r"^DynamicUser=yes$", text, re.MULTILINE):
        return "a dynamic one of systemd's"
    return f"`{user[1]}`" if user else "root"


def held(fleet: Fleet, content: str) -> set[str]:
    """Return the names of the inventory's secrets that a file contains."""
    return {
        name
        for name, secret in fleet.secrets.items()
        if any(spelling in content for spelling in spellings(secret))
    }
