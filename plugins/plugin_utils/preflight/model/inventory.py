"""What preflight looks at, and what it finds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.redact import (
    one_line,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.specs import Specs

FLEET: Final = "fleet"
# Ansible's variables that say which machine a host is, and where what belongs to it lies.
CONNECTION: Final = ("ansible_host", "ansible_port", "ansible_connection", "inventory_dir")
# Ansible's variables that say how it works on a host. Their templates may need facts, so they may fail.
ACCESS: Final = (
    "ansible_user",
    "ansible_ssh_user",
    "ansible_become",
    "ansible_python_interpreter",
)
# Why a value of ansible-vault can't be rendered.
ENCRYPTED: Final = "is encrypted, and no vault password that was given opens it"
MEMBER_GROUPS: Final = ("redis", "celery_workers", "celery_beat", "celery_producers", "flower")


_PLAIN_KEY = re.compile(r"[\w-]{1,64}|\(.*\)")


class Unknown(Enum):
    """Stands for a value that could not be rendered: reported once, then left out of all checks."""

    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class Severity(Enum):
    """An error ends the run before a host is touched, a warning is only printed."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        variable: Name with the path inside it (`celery_worker_instances.discounts.time_limit`), or a group.
        message: What is wrong, as the rest of a sentence that begins with the variable.
        remedy: What to do, as an instruction.
        value: The value as shown to a person, redacted and shortened; empty when there is none.
        hosts: Inventory names that it concerns; empty for the inventory as a whole.
        severity: Error or warning.
        places: Where in the inventory it stands, as `path:line`, where that is known.
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
    """A value of one host whose template fails.

    Attributes:
        path: Variable and keys down to the failing leaf.
        host: Inventory name.
        message: Ansible's reason in one line, free of values.
        value: The template as written, or empty where it must not be shown.
        given: True for a value of the inventory, False for a default of a role.
        missing: The undefined name, where that is the reason.
    """

    path: tuple[object, ...]
    host: str
    message: str
    value: str
    given: bool
    missing: str = ""


@dataclass(frozen=True)
class Control:
    """The control side: versions as text, and the directory that relative paths start from."""

    ansible_version: str
    python_version: str
    base_dir: Path


@dataclass(frozen=True)
class Model:
    """An inventory, rendered host by host.

    Attributes:
        specs: The roles' argument specs and defaults.
        groups: The inventory's groups with their hosts.
        hosts: Our variables for each host of `fleet` and its member groups, defaults included, `CONNECTION` and
            `ACCESS`.
        given: All names that the inventory gives to each of these hosts, ours and others'.
        control: The control side.
        failures: Values that could not be rendered.
        raw: What the inventory gives to each host, as it was read.
    """

    specs: Specs
    groups: Mapping[str, Sequence[str]]
    hosts: Mapping[str, Mapping[str, object]]
    given: Mapping[str, frozenset[str]]
    control: Control
    failures: Sequence[RenderFailure] = ()
    raw: Mapping[str, Mapping[str, object]] = field(default_factory=dict, repr=False)
    _distinct: dict[tuple[str, tuple[str, ...] | None], list[tuple[object, tuple[str, ...]]]] = (
        field(default_factory=dict, repr=False)
    )

    def members(self, *groups: str) -> tuple[str, ...]:
        """Hosts of any of these groups, in the inventory's order, without repetition."""
        return tuple(dict.fromkeys(host for group in groups for host in self.groups.get(group, ())))

    def hosts_of_role(self, role: str) -> tuple[str, ...]:
        """Hosts on which `site.yml` runs a role; none for a role that only other roles call."""
        return self.members(*self.specs.groups_of(role))

    def value(self, host: str, name: str) -> object:
        """The rendered value, or UNKNOWN where there is none."""
        return self.hosts.get(host, {}).get(name, UNKNOWN)

    def distinct(
        self, name: str, hosts: tuple[str, ...] | None = None
    ) -> list[tuple[object, tuple[str, ...]]]:
        """The different values of a variable, each with the hosts that have it.

        Hosts of a group mostly share their variables, so checks look at a value once instead of
        once per host.
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
        """As `distinct`, only where the inventory itself gives the variable."""
        return self.distinct(name, tuple(host for host in self.hosts if name in self.given[host]))

    def show(self, path: Sequence[object], value: object) -> str:
        """A value for a person's eye: secrets redacted, one line, shortened."""
        return self.specs.show(path, value)

    @cached_property
    def given_names(self) -> dict[str, tuple[str, ...]]:
        """Every name that the inventory gives, with the hosts that have it."""
        found: dict[str, list[str]] = {}
        for host, names in self.given.items():
            for name in names:
                found.setdefault(name, []).append(host)
        return {name: tuple(found[name]) for name in sorted(found)}


def dotted(path: Iterable[object]) -> str:
    """A path as text: `('a', 'b', 0, 'c.d')` is `a.b[0]['c.d']`."""
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
    """The value if it is a mapping, with string keys only; else empty (its type is reported elsewhere)."""
    if not isinstance(value, Mapping):
        return {}
    return {key: item for key, item in value.items() if isinstance(key, str)}


def as_list(value: object) -> list[object]:
    """The value if it is a list, else empty."""
    return list(value) if isinstance(value, list) else []


def as_strings(value: object) -> list[str]:
    """The strings of a list; anything else is left out."""
    return [item for item in as_list(value) if isinstance(item, str)]


def as_text(value: object) -> str | None:
    """The value if it is a string that is not empty."""
    return value if isinstance(value, str) and value else None


def as_number(value: object) -> float | None:
    """A finite number, also one written as a string, as Ansible's own argument specs take it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def number_text(value: float) -> str:
    """A number without a needless fraction."""
    return str(int(value)) if value == int(value) else str(value)


def each_worker(model: Model) -> Iterator[tuple[str, Mapping[str, object], tuple[str, ...]]]:
    """Each distinct worker: its name, its options over the host's `celery_worker_defaults`, its hosts."""
    found: dict[tuple[str, str], tuple[Mapping[str, object], list[str]]] = {}
    for host in model.members("celery_workers"):
        defaults = as_mapping(model.value(host, "celery_worker_defaults"))
        for name, options in as_mapping(model.value(host, "celery_worker_instances")).items():
            merged: Mapping[str, object] = {**defaults, **as_mapping(options)}
            found.setdefault((name, repr(merged)), (merged, []))[1].append(host)
    for (name, _), (options_there, hosts) in found.items():
        yield name, options_there, tuple(hosts)
