"""The rendered inventory that preflight checks, and the problems it finds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Final

from ...desired.groups import group_names
from .redact import one_line
from .specs import Specs

# Ansible's variables that say which machine a host is, and where its inventory is.
CONNECTION: Final = (
    *("ansible_host", "ansible_port", "ansible_connection", "inventory_dir"),
    *("ansible_user", "ansible_ssh_user"),
)
# Its variables with passwords. They are only rendered to see whether that is possible, and not kept.
PASSWORDS: Final = (
    *("ansible_password", "ansible_ssh_pass"),
    *("ansible_become_password", "ansible_become_pass"),
)
# Ansible's variables that say how it works on a host. Their templates may need facts, so they may fail.
ACCESS: Final = (
    "ansible_become",
    "ansible_python_interpreter",
)
# The reason given if no password opens a value encrypted by ansible-vault.
ENCRYPTED: Final = "is encrypted, but none of the given vault passwords opens it"

_PLAIN_KEY = re.compile(r"[\w-]{1,64}|\(.*\)")


class Unknown(Enum):
    """Marks a value that could not be rendered: it is reported once, and the checks skip it."""

    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class Severity(Enum):
    """Says whether a problem ends the run before any host is touched (error) or is only printed (warning)."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Problem:
    """Describes one mistake.

    Attributes:
        variable: Name with the path inside it (`celery_worker_instances.discounts.time_limit`), or a group.
        message: The mistake, as the rest of a sentence that begins with the variable.
        remedy: The remedy, as an instruction.
        value: The value as the user sees it, redacted and shortened; empty if there is none.
        hosts: Inventory names of the hosts concerned; empty for the inventory as a whole.
        severity: Error or warning.
        places: `path:line` of each place in the inventory, if known.
    """

    variable: str
    message: str
    remedy: str
    value: str = ""
    hosts: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class RenderFailure:
    """Describes a value of one host that can't be rendered.

    Attributes:
        path: Variable and keys down to the failing leaf.
        host: Inventory name.
        message: Ansible's reason in one line, without values.
        value: The template as written, or empty if it must not be shown.
        given: True for a value of the inventory, False for a default of a role.
        missing: The undefined name, if that is the reason.
        plugin: Kind and name of the plugin that failed, such as `lookup pipe`, if that is the reason.
    """

    path: tuple[object, ...]
    host: str
    message: str
    value: str
    given: bool
    missing: str = ""
    plugin: str = ""


@dataclass(frozen=True)
class Control:
    """Holds the control side's versions as text, the directory that relative paths start from, and Ansible's settings.

    Attributes:
        settings: Values of the settings that `preflight/checks/control.py` refuses, by their names in ansible.cfg.
        needs_source: Whether the run may build a release. One that goes back does not.
    """

    ansible_version: str
    python_version: str
    base_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    needs_source: bool = True


@dataclass(frozen=True)
class Model:
    """Holds an inventory, rendered host by host.

    Attributes:
        specs: The roles' argument specs and defaults.
        groups: The inventory's groups with their hosts.
        hosts: Our variables, defaults included, `CONNECTION` and `ACCESS`, for each host of `fleet` and its member
            groups.
        given: Names of all variables that the inventory sets for each of these hosts, ours or not.
        control: The control side.
        failures: Values that could not be rendered.
        raw: The variables of each host as Ansible read them.
        group_names: The inventory's name of each of our groups.
    """

    specs: Specs
    groups: Mapping[str, Sequence[str]]
    hosts: Mapping[str, Mapping[str, object]]
    given: Mapping[str, frozenset[str]]
    control: Control
    failures: Sequence[RenderFailure] = ()
    raw: Mapping[str, Mapping[str, object]] = field(default_factory=dict, repr=False)
    group_names: Mapping[str, str] = field(default_factory=lambda: group_names(None))
    _distinct: dict[tuple[str, tuple[str, ...] | None], list[tuple[object, tuple[str, ...]]]] = (
        field(default_factory=dict, repr=False)
    )

    def members(self, *groups: str) -> tuple[str, ...]:
        """Return the hosts of these groups of ours, each once, in the inventory's order."""
        theirs = [self.group_names[group] for group in groups]
        return tuple(dict.fromkeys(host for group in theirs for host in self.groups.get(group, ())))

    def hosts_of_role(self, role: str) -> tuple[str, ...]:
        """Return the hosts on which `site.yml` runs a role; none for a role that only other roles call."""
        return self.members(*self.specs.groups_of(role))

    def value(self, host: str, name: str) -> object:
        """Return the rendered value, or UNKNOWN if there is none."""
        return self.hosts.get(host, {}).get(name, UNKNOWN)

    def distinct(
        self, name: str, hosts: tuple[str, ...] | None = None
    ) -> list[tuple[object, tuple[str, ...]]]:
        """Return the different values of a variable, each with the hosts that have it.

        Most hosts share their variables, so a check looks at each value once instead of once per host.
        """
        wanted = (name, hosts)
        if wanted not in self._distinct:
            found: dict[str, tuple[object, list[str]]] = {}
            for host in self.hosts if hosts is None else hosts:
                value = self.value(host, name)
                if value is not UNKNOWN:
                    found.setdefault(repr(value), (value, []))[1].append(host)
            self._distinct[wanted] = [(value, tuple(on)) for value, on in found.values()]
        return self._distinct[wanted]

    def distinct_given(self, name: str) -> list[tuple[object, tuple[str, ...]]]:
        """Return the same as `distinct`, without the hosts that have the role's default."""
        return self.distinct(name, tuple(host for host in self.hosts if name in self.given[host]))

    def show(self, path: Sequence[object], value: object) -> str:
        """Return a value as the user may see it: one shortened line without secrets."""
        return self.specs.show(path, value)

    @cached_property
    def given_names(self) -> dict[str, tuple[str, ...]]:
        """Return every variable that the inventory sets, with the hosts that have it."""
        found: dict[str, list[str]] = {}
        for host, names in self.given.items():
            for name in names:
                found.setdefault(name, []).append(host)
        return {name: tuple(found[name]) for name in sorted(found)}


def dotted(path: Iterable[object]) -> str:
    """Return a path as text: `('a', 'b', 0, 'c.d')` is `a.b[0]['c.d']`."""
    text = ""
    for part in path:
        if not text:
            text = str(part)
        elif isinstance(part, str) and _PLAIN_KEY.fullmatch(part):
            text += f".{part}"
        else:
            text += f"[{one_line(repr(part))}]"
    return text


def as_mapping(value: object) -> Mapping[str, object]:
    """Return the string keys of a mapping with their values; empty for any other type, which `values` reports."""
    if not isinstance(value, Mapping):
        return {}
    return {key: item for key, item in value.items() if isinstance(key, str)}


def as_list(value: object) -> list[object]:
    """Return the value if it is a list, else an empty list."""
    return list(value) if isinstance(value, list) else []


def as_strings(value: object) -> list[str]:
    """Return the strings of a list, without its other items."""
    return [item for item in as_list(value) if isinstance(item, str)]


def as_text(value: object) -> str | None:
    """Return the value if it is a string that is not empty."""
    return value if isinstance(value, str) and value else None


def number_text(value: float) -> str:
    """Return a number as text, without the fraction of a whole number."""
    return str(int(value)) if value == int(value) else str(value)


def each_worker(model: Model) -> Iterator[tuple[str, Mapping[str, object], tuple[str, ...]]]:
    """Yield each distinct worker: its name, its options merged over `celery_worker_defaults`, its hosts."""
    found: dict[tuple[str, str], tuple[Mapping[str, object], list[str]]] = {}
    for host in model.members("celery_workers"):
        defaults = as_mapping(model.value(host, "celery_worker_defaults"))
        for name, options in as_mapping(model.value(host, "celery_worker_instances")).items():
            merged: Mapping[str, object] = {**defaults, **as_mapping(options)}
            found.setdefault((name, repr(merged)), (merged, []))[1].append(host)
    for (name, _), (options_there, hosts) in found.items():
        yield name, options_there, tuple(hosts)


# Variables with the options of a unit that exists once on a host, each with its group.
UNITS: Final = {
    "celery_producer_web": "celery_producers",
    "celery_beat_unit": "celery_beat",
    "flower_unit": "flower",
}


def each_process(
    model: Model,
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object], tuple[str, ...]]]:
    """Yield the path in the inventory, the options and the hosts of each distinct unit of Celery processes."""
    for name, options, hosts in each_worker(model):
        yield ("celery_worker_instances", name), options, hosts
    for variable, group in UNITS.items():
        for value, hosts in model.distinct(variable, model.members(group)):
            yield (variable,), as_mapping(value), hosts
