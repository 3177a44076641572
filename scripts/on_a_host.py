"""Write docs/on-a-host.md: all that the roles put on hosts, and who can read which secret.

    python -m scripts.on_a_host           write the file
    python -m scripts.on_a_host --check   say whether it is what would be written; 1 if not

What stands there is what real dry runs of `site.yml` would settle, over the inventories that the render tests have:
so it takes a minute, and a test of theirs compares it. What belongs to one inventory is told by a placeholder.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.render.fleet import FILLED_IN, VALKEY, VARIANTS, Fleet, Host, render

ROOT = Path(__file__).resolve().parent.parent
# What a role's name begins with.
COLLECTION = "celery_fleet.core."
OUTPUT = ROOT / "docs" / "on-a-host.md"

HEAD = """\
# What is put on a host

Made by `scripts/on_a_host.py` from dry runs of `site.yml`: what the roles want on the hosts of the delivered
inventories, and of ones with all that these leave off. Edit the roles.

`<app>` is `celery_app_name`, `<worker>` a key of `celery_worker_instances`, `<id>` a release, `<version>` that of the
runtime. *Option* names what brings a thing that a fleet does not have by default; *by* is the role that puts it there,
on [its hosts](#roles-and-hosts). Where owner or mode is not told, it is root's, and 0644 for a file or 0755 for a
directory.

Not in these lists are Debian's packages ([architecture](architecture.md#why-each-dependency-is-there)), the files
within a release and within the runtime, and what processes write at their work; where that lies stands in
[names](architecture.md#names).
"""

# What is in no delivered fleet: a pattern of what is put there, and the variable that brings it.
OPTIONS = {
    r"valkey": "`redis_flavor: valkey`",
    r"firewall|celery_fleet_<app>": "`firewall_enabled`",
    r"logrotate|/var/log/<app>": "`celery_app_log_destination: file`",
    r"credentials/schedule\.json": "`celery_beat_scheduler: database`",
    r"nginx-web/flower\.conf": "`flower_url_prefix`",
    r"^backend$": "`celery_producer_web_listen`",
}
# What a port is for, its variable, and who is let in.
PORTS = {
    "broker": ("Redis, broker", "celery_app_broker_port", "TLS, a password for each component"),
    "results": ("Redis, results", "celery_app_results_port", "TLS, a password for each component"),
    "web": (
        "nginx, web process",
        "celery_producer_web_port",
        "TLS, a password for what is protected",
    ),
    "flower": ("nginx, Flower", "flower_port", "TLS, a password"),
    "backend": ("web process, past nginx", "celery_producer_web_listen", "nothing"),
}
PORTS_ROLE = {
    "broker": "redis",
    "results": "redis",
    "web": "celery_producer",
    "flower": "flower",
    "backend": "celery_producer",
}
# What no value gives away: it is kept as a hash, or made of others.
HOLDS = {
    r"web\.htpasswd$": "a hash of `celery_producer_web_auth_password`",
    r"flower\.htpasswd$": "a hash of `flower_auth_password`",
    r"host\.key$": "the host's private key",
    r"health\.json$": "`celery_health_on_change`",
}
# Who reads a file with secrets, where systemd hands it to nobody.
READ_BY = {
    r"\.htpasswd$": "nginx",
    r"host\.key$": "nginx",
    r"exec\.env$|producer\.json$": "`celery-fleet`, commands of a release",
    r"operator\.json$": "`celery-fleet`, the check of health",
    r"schedule\.json$": "`celery-fleet schedule`",
    r"health\.json$": "the check of health",
    r"users\.acl$": "Redis, `celery-fleet redis --as admin`",
}
# What brings a reader that a file does not have by default.
GIVEN_BY = {r"host\.key$": "`pki_mode: mutual`"}
# A variable of the examples' inventories, which hand it on by one of ours.
_BY = {"postgresql_password": "`celery_app_urls`"}
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
    """Something on a host, as all renders together tell it.

    Attributes:
        cells: What is told of it, after its name.
        roles: Who puts it there.
        default: Whether a delivered fleet has it.
    """

    cells: tuple[str, ...]
    roles: set[str] = field(default_factory=set)
    default: bool = False


class PageError(Exception):
    """What was rendered can't be told as this page does; the message names what is missing."""


@dataclass
class Page:
    """Things by kind and name, and of files with secrets by name what each holds and who opens it.

    Attributes:
        given: Units to which systemd gives a file, and whether in a fleet with the defaults.
    """

    things: dict[str, dict[str, Thing]] = field(default_factory=dict)
    holds: dict[str, set[str]] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    given: dict[str, dict[str, set[bool]]] = field(default_factory=dict)

    def add(self, kind: str, name: str, cells: Iterable[str], role: str, default: bool) -> None:
        """Take a thing in, or that one more role or fleet has it."""
        found = self.things.setdefault(kind, {}).setdefault(name, Thing(tuple(cells)))
        found.roles.add(role)
        found.default = found.default or default


def general(text: str, app: str, workers: Iterable[str]) -> str:
    """A path or name without what belongs to one inventory."""
    text = text.replace(app.replace("-", r"\x2d") + ".slice", "<app>.slice").replace(app, "<app>")
    names = "|".join(map(re.escape, workers))
    text = re.sub(rf"(worker[@-])({names})(?![\w-])", r"\1<worker>", text)
    text = text.replace("%i", "<worker>").replace("%n", "<unit>")
    text = re.sub(r"/usr/lib/celery-fleet/\d[\w.+-]*", "/usr/lib/celery-fleet/<version>", text)
    return re.sub(r"(releases/)[0-9a-f]{12}", r"\1<id>", text)


def rights(item: Mapping[str, Any], mode: str) -> tuple[str, str]:
    """Owner with group, and mode, as cells: empty where they are the usual ones."""
    owner, group = item.get("owner", "root"), item.get("group", "root")
    who = "" if owner == group == "root" else f"`{owner}:{group}`"
    given = str(item.get("mode", mode))
    return who, "" if given == mode else f"`{given}`"


def readable(item: Mapping[str, Any]) -> str:
    """Who opens a file by its owner, group and mode."""
    mode = int(str(item.get("mode", "0644")), 8)
    owner, group = item.get("owner", "root"), item.get("group", "root")
    who = ["root"] if owner == "root" else ["root", f"`{owner}`"]
    if mode & 0o040 and group != "root":
        who.append(f"group `{group}`")
    return "everybody" if mode & 0o004 else ", ".join(who)


def spellings(secret: str) -> set[str]:
    """How a secret may stand in a file: as it is, in JSON, in a URL, in an environment file."""
    escaped = re.sub(r'(["\\$`])', r"\\\1", secret)
    return {
        secret,
        quote(secret, safe=""),
        escaped,
        secret.replace("\\", "\\\\").replace('"', '\\"'),
    }


def handed(text: str) -> Iterator[str]:
    """Paths that systemd reads as root and gives to a unit's process."""
    for value in re.findall(r"^(?:EnvironmentFile|LoadCredential)=(.+)$", text, re.MULTILINE):
        yield value.rpartition(":")[2].lstrip("-")


def directories(text: str) -> Iterator[tuple[str, str, str]]:
    """Directories that systemd makes for a unit: path, who owns them, mode."""
    options = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    user = options.get("User", "root")
    for kind, parent in _SYSTEMD.items():
        for name in options.get(kind, "").split():
            owner = f"`{user}:{options.get('Group', user)}`" if user != "root" else ""
            mode = options.get(f"{kind}Mode", "0755")
            yield f"{parent}{name}", owner, "" if mode == "0755" else f"`{mode}`"


def accounts(text: str) -> Iterator[tuple[str, str]]:
    """Users and groups of a file for systemd-sysusers, and what each is."""
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
    """The role of a part of the plan, whose name begins with the role's."""
    names = [path.name for path in (ROOT / "roles").iterdir() if path.is_dir()]
    return max((name for name in names if part.startswith(name)), key=len)


def take(page: Page, fleet: Fleet, default: bool) -> None:
    """Take all of a fleet into the page."""
    for host in fleet.hosts.values():
        take_host(page, fleet, host, default)


def take_host(page: Page, fleet: Fleet, host: Host, default: bool) -> None:
    """Take all of a host into the page."""
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
                # The demo's secrets have names of its own.
                known |= set() if default else held(fleet, item["content"])
            if name.endswith("/fleet.json"):
                for port, number in yaml.safe_load(item["content"])["ports"].items():
                    page.add("ports", port, [str(number)], PORTS_ROLE[port], default)
        for item in part.get("directories", []):
            if "/<version>/" not in plain(item["path"]):
                who, mode = rights(item, "0755")
                page.add("directories", plain(item["path"]), [plain(who), mode], role, default)
        for item in part.get("releases", []):
            page.add("directories", plain(item["path"]), ["", ""], role, default)
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
    """Take the units of a part into the page: those whose files are ours, and those of Debian that it starts."""
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
    """What a unit says that it is."""
    said = re.search(r"^Description=(.*)$", text, re.MULTILINE)
    return re.sub(r"^<app>: | <\w+>$", "", said[1]) if said else ""


def runs_as(name: str, text: str) -> str:
    """The user of a service's process."""
    user = re.search(r"^User=(.*)$", text, re.MULTILINE)
    if not name.endswith(".service"):
        return ""
    return f"`{user[1]}`" if user else "root"


def held(fleet: Fleet, content: str) -> set[str]:
    """Names of the secrets of the inventory that stand in a file."""
    return {
        name
        for name, secret in fleet.secrets.items()
        if any(spelling in content for spelling in spellings(secret))
    }


def variable(name: str) -> str:
    """The variable that a render's name of a secret stands for."""
    first, _, rest = name.partition(" ")
    if first == "redis_passwords":
        return f"`{first}.{rest}`"
    return _BY.get(first.strip(), f"`{first}`")


def option(name: str, thing: Thing) -> str:
    """What brings a thing that a fleet has not by default; see `option_of`."""
    return "" if thing.default else option_of(name, OPTIONS, "OPTIONS")


def option_of(name: str, options: Mapping[str, str], where: str) -> str:
    """The variable that is told for a name.

    Raises:
        PageError: Nobody has told it.
    """
    for pattern, variable_ in options.items():
        if re.search(pattern, name):
            return variable_
    raise PageError(f"{name}: say in {where} of scripts/on_a_host.py which variable brings it")


def by(thing: Thing) -> str:
    """The roles of a thing."""
    return ", ".join(f"`{role}`" for role in sorted(thing.roles))


def table(page: Page, kind: str, heads: Sequence[str]) -> Iterator[str]:
    """One kind as a table; a column that nothing is told in is left out."""
    rows = [
        (f"`{name}`", *thing.cells, option(name, thing), by(thing))
        for name, thing in sorted(page.things[kind].items())
    ]
    yield from lines((*heads, "Option", "By"), rows)


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table's lines."""
    told = [n for n in range(len(heads)) if any(row[n] for row in rows)]
    yield f"| {' | '.join(heads[n] for n in told)} |"
    yield f"|{'---|' * len(told)}"
    for row in rows:
        # A bar has to be escaped even in code.
        cells = [row[n].replace("|", r"\|") for n in told]
        yield f"| {' | '.join(cells)} |"


def ports(page: Page) -> Iterator[str]:
    """The ports, in the order of `PORTS`."""
    found = page.things["ports"]
    rows = []
    for name, (what, variable_, needs) in PORTS.items():
        thing = found[name]
        rows.append((thing.cells[0], what, f"`{variable_}`", needs, option(name, thing), by(thing)))
    yield from lines(
        ("Port", "Who listens", "Variable", "What it asks of a caller", "Option", "By"), rows
    )


def secrets(page: Page) -> Iterator[str]:
    """The files with secrets: who reads each, to whom systemd hands it, what of the inventory is in it.

    Raises:
        PageError: Nobody can tell what a file holds.
    """
    rows = []
    for name, thing in sorted(page.things["secrets"].items()):
        told = {variable(one) for one in page.holds[name] if not one.startswith("key of ")}
        told |= {text for pattern, text in HOLDS.items() if re.search(pattern, name)}
        if not told:
            raise PageError(f"{name}: say in HOLDS of scripts/on_a_host.py which secret it holds")
        opens = " or ".join(sorted(page.readers[name]))
        given = [
            unit
            if True in seen or not thing.default
            else f"{unit} ({option_of(name, GIVEN_BY, 'GIVEN_BY')})"
            for unit, seen in sorted(page.given.get(name, {}).items())
        ]
        given += [text for pattern, text in READ_BY.items() if re.search(pattern, name)]
        if not given:
            raise PageError(f"{name}: say in READ_BY of scripts/on_a_host.py who reads it")
        holds = ", ".join(sorted(told))
        rows.append((f"`{name}`", opens, ", ".join(given), holds, option(name, thing), by(thing)))
    yield from lines(("File", "Opened by", "Given to", "Holds", "Option", "By"), rows)


def write(local: Fleet, others: Sequence[Fleet]) -> str:
    """The whole page.

    Args:
        local: A fleet with what all have.
        others: Fleets with more.
    """
    page = Page()
    take(page, local, True)
    for fleet in others:
        take(page, fleet, False)
    plays = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    roles = sorted(
        {role for each in page.things.values() for one in each.values() for role in one.roles}
    )
    sections = {
        "Users and groups": table(page, "accounts", ("Name", "What")),
        "Ports": ports(page),
        "Units": table(page, "units", ("Unit", "What", "Runs as")),
        "Secrets": secrets(page),
        "Files": table(page, "files", ("File", "Owner", "Mode")),
        "Links": table(page, "links", ("Link", "To")),
        "Directories": table(page, "directories", ("Directory", "Owner", "Mode")),
        "Directories of units": table(page, "made", ("Directory", "Owner", "Mode", "Of")),
    }
    text = [HEAD]
    for title, rows in sections.items():
        text += [f"## {title}", "", *INTRODUCTIONS.get(title, ()), *rows, ""]
    text += [
        "## Roles and hosts",
        "",
        *lines(("Role", "Hosts"), [(f"[{r}](reference.md#{r})", hosts(r, plays)) for r in roles]),
    ]
    return "\n".join(text).rstrip() + "\n"


def hosts(role: str, plays: Iterable[Mapping[str, Any]]) -> str:
    """The groups on whose hosts a role acts: those of the first play that has it."""
    for play in plays:
        names = [one["role"].removeprefix(COLLECTION) for one in play.get("roles") or ()]
        if role in names:
            return ", ".join(f"`{group}`" for group in str(play["hosts"]).split(":"))
    raise PageError(f"{role}: no play of site.yml has this role")


INTRODUCTIONS = {
    "Secrets": (
        "Root opens all of them. What lies in `credentials/`, a directory of root's with the mode 0700, nobody else",
        "can open: systemd reads it and gives it to the units named, and what a process was given its user can read.",
        "Those of the control side: [operations](operations.md#secrets).",
        "",
    ),
    "Ports": (
        "The firewall, where it is on, lets nobody but the fleet's hosts reach Redis, nor the web process past nginx:",
        "[operations](operations.md#firewall).",
        "",
    ),
    "Directories of units": (
        "systemd makes them when it starts the unit; what is below `/run` goes at its end.",
        "",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Parse, render, write or compare."""
    parser = argparse.ArgumentParser(description="Write docs/on-a-host.md from dry runs.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    check = parser.parse_args(arguments).check
    wanted = {name: (name, given) for name, given in FILLED_IN.items()} | VARIANTS
    wanted["valkey"] = ("staging", VALKEY)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        runs = {
            title: pool.submit(
                render, inventory, Path(name), given, 257 if title == "valkey" else 252, title
            )
            for title, (inventory, given) in wanted.items()
        }
        fleets = {title: run.result() for title, run in runs.items()}
    text = write(fleets.pop("local"), list(fleets.values()))
    if not check:
        OUTPUT.write_text(text)
        return 0
    if OUTPUT.is_file() and OUTPUT.read_text() == text:
        return 0
    print(
        f"{OUTPUT.relative_to(ROOT)} is stale: run `python -m scripts.on_a_host`", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
