"""Checks the inventory's groups, their hosts, and the files named after them."""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ...desired.groups import FLEET, MEMBER_GROUPS, group_names
from ...desired.option import as_number
from ..model.inventory import Model, Problem, Severity, as_mapping, as_text
from .ansible_variables import is_local
from .names import near_miss
from .redis_service import BROKER, is_used

_OURS: Final = (FLEET, *MEMBER_GROUPS)
# These are optional, so their absence is not a mistake.
_OPTIONAL: Final = ("celery_producers", "flower")
SUFFIXES: Final = (".yml", ".yaml", ".json")
# Suffixes of the copies that editors and people leave beside a file.
_COPIES: Final = (".bak", ".old", ".orig", ".save", ".txt")
_SSH_PORT: Final = 22
# A whole file, or a single value in it; or values from elsewhere, such as a secrets manager's lookups.
_SEALED: Final = re.compile(r"^\$ANSIBLE_VAULT;|!vault\b|\blookup\(|\bquery\(", re.MULTILINE)


def check_groups(model: Model) -> Iterator[Problem]:
    """Report groups that are missing, empty, too big, or outside `fleet`."""
    names = model.group_names
    yield from _names_of_groups(model)
    if not model.members(FLEET):
        parts = ", ".join(names[group] for group in MEMBER_GROUPS)
        yield Problem(
            names[FLEET],
            _absence(model, FLEET),
            f"make it the parent of {parts} in the inventory's hosts file",
        )
    if not model.members("celery_workers"):
        yield Problem(
            names["celery_workers"],
            f"{_absence(model, 'celery_workers')}, so nothing would run a task",
            _guess(model, "celery_workers") or "put the hosts that run workers into it",
        )
    redis = model.members("redis")
    if not redis and not is_used(model):
        yield Problem(
            names["redis"],
            f"{_absence(model, 'redis')}, and {BROKER} is not set",
            _guess(model, "redis")
            or f"put the one host that runs Redis into it, or set {BROKER} to a server of your own",
        )
    elif len(redis) % 2 == 0 and redis:
        yield Problem(
            names["redis"],
            f"has {len(redis)} hosts, but a primary is only replaced by a majority of them: another host would add "
            "nothing but a host that can fail",
            f"put {len(redis) + 1} hosts into it, or {len(redis) - 1}",
            value=", ".join(redis),
        )
    yield from _beat(model)
    yield from _web(model)
    yield from _outside(model)
    yield from _nearly_ours(model)
    yield from _without_a_part(model)


def _names_of_groups(model: Model) -> Iterator[Problem]:
    """Report a group that has two purposes, and hosts with other names: a play's `hosts` can't depend on the host."""
    names = list(model.group_names.values())
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        twice = [ours for ours, other in model.group_names.items() if other == name]
        yield Problem(
            "fleet_groups",
            f"has one group for {' and '.join(twice)}",
            "name a different group for each; a host may be in several groups",
            value=name,
        )
    others = tuple(
        host
        for host in model.hosts
        if group_names(model.value(host, "fleet_groups")) != model.group_names
    )
    if others:
        yield Problem(
            "fleet_groups",
            "differs from the value of the inventory's first host",
            "set it once for all hosts, in group_vars/all",
            hosts=others,
        )


def _beat(model: Model) -> Iterator[Problem]:
    beat = model.members("celery_beat")
    scheduled = [
        (value, hosts)
        for value, hosts in model.distinct("celery_beat_schedule")
        # An entry that only disables an entry of the code needs no beat.
        if any(
            as_mapping(entry).get("enabled") is not False for entry in as_mapping(value).values()
        )
    ]
    if not beat and scheduled:
        yield Problem(
            model.group_names["celery_beat"],
            f"{_absence(model, 'celery_beat')}, but celery_beat_schedule has entries: nothing would send them",
            _guess(model, "celery_beat") or "put one host into it, or empty celery_beat_schedule",
        )


def _web(model: Model) -> Iterator[Problem]:
    if _lacks_web_host(model):
        yield Problem(
            model.group_names["celery_producers"],
            f"{_absence(model, 'celery_producers')}, but celery_producer_web has a command: nothing would run it",
            _guess(model, "celery_producers")
            or "put the hosts of the web process into it, or remove celery_producer_web",
        )


def _lacks_web_host(model: Model) -> bool:
    """Return whether there is a command of a web process, and no host for it."""
    return not model.members("celery_producers") and any(
        as_mapping(value).get("command") for value, _ in model.distinct_given("celery_producer_web")
    )


def _outside(model: Model) -> Iterator[Problem]:
    fleet, name = model.members(FLEET), model.group_names[FLEET]
    if not fleet:
        return
    for group in MEMBER_GROUPS:
        outside = tuple(host for host in model.members(group) if host not in fleet)
        if outside:
            yield Problem(
                model.group_names[group],
                f"has hosts that are not in {name}, so site.yml would skip them",
                f"list {model.group_names[group]} among the children of {name}",
                value=", ".join(outside),
            )


def _nearly_ours(model: Model) -> Iterator[Problem]:
    """Report groups with almost the same name as one of ours, if they have hosts that our group lacks."""
    for name, hosts in model.groups.items():
        if name in (*_OURS, *model.group_names.values(), "all", "ungrouped"):
            continue
        for ours in (ours for ours, other in model.group_names.items() if ours == other):
            there = model.members(ours)
            lost = [host for host in hosts if host not in there]
            # A required group without hosts has already been reported, with a guess.
            is_reported = not there and (
                ours not in _OPTIONAL or (ours == "celery_producers" and _lacks_web_host(model))
            )
            if is_reported or not lost or name.rstrip("0123456789_-") == ours:
                continue
            if near_miss(name, ours):
                yield Problem(
                    name,
                    f"looks like the group {ours}, and has hosts that are not in {ours}",
                    f"rename it to {ours}; or, if it is your own group, to something less similar",
                    value=", ".join(lost),
                )


def _without_a_part(model: Model) -> Iterator[Problem]:
    """Warn about hosts of the fleet that would run nothing."""
    used = model.members(*MEMBER_GROUPS)
    idle = tuple(host for host in model.members(FLEET) if host not in used)
    if idle and used:
        misspelt = [
            f"({other}, which is in a group, may be {host} misspelt)"
            for host in idle
            for other in used
            if _alike(other, host)
        ]
        parts = ", ".join(model.group_names[group] for group in MEMBER_GROUPS)
        yield Problem(
            model.group_names[FLEET],
            f"has hosts that are in none of its groups ({parts}), so nothing would run there: "
            f"{', '.join(idle)}",
            " ".join(["put them into a group, or take them out of fleet", *misspelt]),
            severity=Severity.WARNING,
        )


def check_machines(model: Model) -> Iterator[Problem]:
    """Refuse one machine as two hosts; warn about a host that lacks the address that most others have."""
    seen: dict[tuple[str, float], str] = {}
    without: list[str] = []
    for host in model.hosts:
        if is_local(model, host):
            continue
        given = as_text(model.value(host, "ansible_host"))
        if given and not _is_host(given):
            yield Problem(
                "ansible_host",
                "is not the name or address of a host",
                "write the name or address only, without brackets; the user is ansible_user, the port ansible_port",
                value=model.show(("ansible_host",), given),
                hosts=(host,),
            )
        if given is None and "ansible_host" not in model.given[host]:
            without.append(host)
        port = as_number(model.value(host, "ansible_port")) or _SSH_PORT
        machine = (_plain((given or host).lower()), port)
        other = seen.setdefault(machine, host)
        if other != host:
            yield Problem(
                "ansible_host",
                f"is also the address of {other}, but one machine can't be two hosts of a fleet",
                "correct the address, or keep one of the two names, which may be in several groups",
                value=machine[0],
                hosts=(host,),
            )
    # If most hosts have no address, their names are probably in DNS.
    if without and len(without) * 3 <= len(model.hosts):
        yield Problem(
            "ansible_host",
            "is not set, but most hosts have one. Ansible would connect to the name itself",
            "give it an address; or, if the name is misspelt in a group, correct it",
            hosts=tuple(without),
            severity=Severity.WARNING,
        )


def is_wrong_address(model: Model, host: str, text: str) -> bool:
    """Return whether a text is the host's `ansible_host`, and neither a name nor an address."""
    return text == model.value(host, "ansible_host") and not _is_host(text)


def _is_host(text: str) -> bool:
    """Return whether a text is an address, or may be a name in DNS or in ssh's configuration."""
    if ":" not in text:
        return not re.search(r"[@/\[\]\s]", text)
    try:
        # A link-local address has its interface after a percent sign.
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _plain(address: str) -> str:
    """Return an address in its shortest form; a name as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def check_files(model: Model) -> Iterator[Problem]:
    """Report files in group_vars and host_vars for unknown groups and hosts: Ansible silently ignores them."""
    directories = dict.fromkeys(
        Path(text) for value, _ in model.distinct("inventory_dir") if (text := as_text(value))
    )
    hosts = dict.fromkeys(host for members in model.groups.values() for host in members)
    for directory in directories:
        for folder, known in (("group_vars", tuple(model.groups)), ("host_vars", tuple(hosts))):
            for name in _names(directory / folder):
                if name in known:
                    continue
                kind = "group" if folder == "group_vars" else "host"
                alike = [other for other in known if _alike(name, other)]
                near = difflib.get_close_matches(name, alike, n=1, cutoff=0)
                yield Problem(
                    f"{folder}/{name}",
                    f"is for a {kind} that the inventory lacks, so it has no effect",
                    f"did you mean {near[0]}? Otherwise rename or remove it, or add the {kind}"
                    if near
                    else f"rename or remove it, or add the {kind}",
                    # Variables of a removed host do no harm, but variables for one of our groups would be missing.
                    severity=Severity.ERROR
                    if folder == "group_vars" and set(near) & {*model.group_names.values()}
                    else Severity.WARNING,
                )
            yield from _plain_vaults(directory, folder)
            yield from _shadowed(directory, folder)


def _alike(name: str, known: str) -> bool:
    """Return whether a name may be a known name that is misspelt or lacks its first word.

    A name with other digits is a different name.
    """
    if re.sub(r"\d+", "0", name) == re.sub(r"\d+", "0", known):
        return False
    return near_miss(name, known) or known.endswith(f"_{name}")


def _plain_vaults(directory: Path, folder: str) -> Iterator[Problem]:
    """Warn about files of secrets that are not encrypted."""
    for file in sorted((directory / folder).rglob("vault*")):
        try:
            lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        except OSError:
            continue  # Ansible reports the error itself
        text = [line for line in lines if line.strip() and line.lstrip()[0] not in "#-"]
        if (
            file.suffix.rstrip("~") in ("", *SUFFIXES, *_COPIES)
            and text
            and not _SEALED.search("\n".join(text))
        ):
            yield Problem(
                str(file.relative_to(directory)),
                "is not encrypted",
                f"ansible-vault encrypt {shlex.quote(str(file))}",
                severity=Severity.WARNING,
            )


def _shadowed(directory: Path, folder: str) -> Iterator[Problem]:
    """Report files that Ansible ignores, as it only reads the first of `all/`, `all.yml`, `all.yaml` and `all.json`."""
    for name in _names(directory / folder):
        there = [
            path
            for suffix in ("", *SUFFIXES)
            if (path := directory / folder / f"{name}{suffix}").exists()
        ]
        for path in there[1:]:
            first = f"{folder}/{there[0].name}{'/' if there[0].is_dir() else ''}"
            yield Problem(
                f"{folder}/{path.name}",
                f"has no effect: of the two, Ansible reads only {first}",
                f"move it into {first}" if there[0].is_dir() else f"move its variables to {first}",
            )


def _names(directory: Path) -> Sequence[str]:
    """Return the names of the groups or hosts to which the files and directories in a directory belong."""
    try:
        found = sorted(directory.iterdir())
    except OSError:
        return ()
    names = dict.fromkeys(
        path.name if path.is_dir() else path.stem
        for path in found
        if path.name[0] != "." and (path.is_dir() or path.suffix in ("", *SUFFIXES))
    )
    return tuple(names)


def _absence(model: Model, group: str) -> str:
    return (
        "is a group without hosts"
        if model.group_names[group] in model.groups
        else "is a group that the inventory lacks"
    )


def _guess(model: Model, group: str) -> str:
    if model.group_names[group] in model.groups:
        return ""
    if model.group_names[group] != group:
        return "correct its name in fleet_groups"
    others = [name for name in model.groups if name not in (*_OURS, "all", "ungrouped")]
    near = difflib.get_close_matches(group, others, n=1, cutoff=0.75) or [
        name for name in others if group.endswith(f"_{name}") or name.startswith(f"{group}_")
    ]
    if not near:
        return ""
    return (
        f"if that is what the group {near[0]} is, rename it to {group}, or name it in fleet_groups"
    )
