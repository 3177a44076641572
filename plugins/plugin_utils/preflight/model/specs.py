"""The variables of roles as `meta/argument_specs.yml` and `defaults/main.yml` define them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from . import redact

# The groups of hosts on which `site.yml` runs each role. Other roles get their variables from the roles that call them,
# so the inventory need not set any.
ROLE_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "preflight": ("fleet",),
    "celery_app": ("fleet",),
    "pki": ("fleet",),
    "firewall": ("fleet",),
    "redis": ("redis",),
    "celery_runtime": ("celery_workers", "celery_beat", "celery_producers", "flower"),
    "celery_release": ("celery_workers", "celery_beat", "celery_producers"),
    "celery_worker": ("celery_workers",),
    "celery_restart": ("celery_workers",),
    "celery_canary": ("celery_workers",),
    "celery_pause": ("celery_workers",),
    "celery_beat": ("celery_beat",),
    "celery_producer": ("celery_producers",),
    "flower": ("flower",),
    "celery_health": ("fleet",),
    "celery_exporter": ("fleet",),
    "celery_monitoring": ("fleet",),
}

# Argument specs can't describe a mapping with free keys. The options of its elements are in an entry point of the same
# file, or in another variable that takes the same options.
ELEMENTS: Final[Mapping[str, tuple[str, str]]] = {
    "celery_worker_instances": ("instance", "celery_worker_defaults"),
    "celery_beat_schedule": ("entry", ""),
    "celery_app_env_urls": ("url", ""),
    "celery_app_clients": ("client", ""),
    "celery_app_directories": ("directory", ""),
    "celery_producer_web_static": ("static", ""),
}

Option = Mapping[str, object]


@dataclass(frozen=True)
class RoleSpec:
    """Describes one role.

    Attributes:
        name: The role's name; its variables begin with this and an underscore.
        options: `argument_specs.main.options`.
        defaults: The result of `read_defaults`, not rendered.
        path: The role's directory.
        entries: Options of the other entry points.
    """

    name: str
    options: Mapping[str, Option]
    defaults: Mapping[str, object] = field(default_factory=dict)
    path: str = ""
    entries: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)


@dataclass(frozen=True)
class Specs:
    """Holds all roles by name."""

    roles: Mapping[str, RoleSpec]

    @cached_property
    def options(self) -> dict[str, Option]:
        """Return the option of each public variable; one that only has a default may have any type."""
        found: dict[str, Option] = {}
        for role in self.roles.values():
            found.update(
                {name: {"type": "raw"} for name in role.defaults if not name.startswith("_")}
            )
            found.update(role.options)
        return found

    def groups_of(self, role: str) -> tuple[str, ...]:
        """Return the groups of hosts on which `site.yml` runs the role."""
        return ROLE_GROUPS.get(role, ())

    def role_of(self, variable: str) -> str | None:
        """Return the role that a variable belongs to by its prefix; the longest prefix wins."""
        fits = [name for name in self.roles if variable.startswith(f"{name}_")]
        return max(fits, key=len, default=None)

    def element_options(self, variable: str) -> Mapping[str, Option]:
        """Return the options of one element of a mapping with free keys; empty if the specs have none."""
        entry, twin = ELEMENTS.get(variable, ("", ""))
        role = self.roles.get(self.role_of(variable) or "")
        if role is not None and entry in role.entries:
            return role.entries[entry]
        return options_of(self.options.get(twin, {}))

    def is_secret(self, path: Sequence[object]) -> bool:
        """Return whether `no_log`, or a name in the path, forbids showing the value at a path."""
        if any(redact.is_secret_name(part) for part in path):
            return True
        return any(option.get("no_log") is True for option in self._on_the_way(path))

    def is_hidden(self, path: Sequence[object]) -> bool:
        """Return whether to hide the value at a path and its keys: a secret, or a mapping that has secrets.

        A value in place of the mapping may be the secret itself, and so may the value of a misspelt key.
        """
        if self.is_secret(path):
            return True
        if path and path[0] in ELEMENTS and len(path) <= 2:  # the mapping, or one element of it
            below = self.element_options(str(path[0]))
        else:
            below = options_of([{}, *self._on_the_way(path)][-1])
        return any(option.get("no_log") is True for option in below.values())

    def show(self, path: Sequence[object], value: object) -> str:
        """Return the value at a path as text, as `redact.show` does."""
        return redact.show(value, self.is_hidden(path))

    def _on_the_way(self, path: Sequence[object]) -> Iterator[Option]:
        if not path or not isinstance(path[0], str):
            return
        option = self.options.get(path[0], {})
        yield option
        below = options_of(option)
        rest = list(path[1:])
        if path[0] in ELEMENTS and rest:
            below, rest = self.element_options(path[0]), rest[1:]
        for part in rest:
            if isinstance(part, int):
                continue
            option = below.get(str(part), {})
            yield option
            below = options_of(option)


def options_of(option: Option) -> Mapping[str, Option]:
    """Return the nested options of an option."""
    return _options(option.get("options"))


def read_defaults(role: Path, read: Callable[[Path], object]) -> dict[str, object]:
    """Return a role's defaults, together with its internal variables if a default is computed from one of them.

    Args:
        role: The role's directory.
        read: Returns a YAML file's content.
    """
    found = _mapping(role / "defaults/main.yml", read)
    if any(isinstance(value, str) and "{{ __" in value for value in found.values()):
        found = _mapping(role / "vars/main.yml", read) | found
    return found


def _mapping(file: Path, read: Callable[[Path], object]) -> dict[str, object]:
    content = read(file) if file.is_file() else None
    return dict(content) if isinstance(content, Mapping) else {}


def parse_role(name: str, argument_specs: object, defaults: object, path: str = "") -> RoleSpec:
    """Return a role from its two parsed files, without anything that does not look like a spec."""
    specs = argument_specs if isinstance(argument_specs, Mapping) else {}
    entries = specs.get("argument_specs")
    entries = entries if isinstance(entries, Mapping) else {}
    parsed = {
        str(entry): _options(body.get("options"))
        for entry, body in entries.items()
        if isinstance(body, Mapping)
    }
    return RoleSpec(
        name=name,
        # `celery_app` has no tasks, and so no `main`.
        options=parsed.pop("main", {}) or parsed.pop("variables", {}),
        defaults={
            key: value
            for key, value in (defaults.items() if isinstance(defaults, Mapping) else ())
            if isinstance(key, str)
        },
        path=path,
        entries=parsed,
    )


def _options(value: object) -> Mapping[str, Option]:
    if not isinstance(value, Mapping):
        return {}
    return {
        str(name): option if isinstance(option, Mapping) else {} for name, option in value.items()
    }
