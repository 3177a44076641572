"""Builds the model from Ansible's variables: renders each of our variables host by host.

From Ansible it only needs a function that renders a value (`Templar.template`) and its errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible.errors import AnsibleError, AnsibleTemplatePluginError, AnsibleUndefinedVariable
from ansible_collections.celery_fleet.core.plugins.module_utils.redact import hide_logins

from ...desired.groups import FLEET, MEMBER_GROUPS
from . import redact
from .inventory import (
    ACCESS,
    CONNECTION,
    ENCRYPTED,
    PASSWORDS,
    UNKNOWN,
    Control,
    Model,
    RenderFailure,
)
from .specs import RoleSpec, Specs

Render = Callable[[object], object]
MakeRender = Callable[[dict[str, object]], Render]
Path = tuple[object, ...]

_UNDEFINED = re.compile(r"'([^']+)' is undefined")
_PLUGIN = re.compile(r"\b(lookup|filter|test) plugin '([\w.]+)'")
_TEMPLATE = re.compile(r"\{\{|\{%|\{#|^#jinja2:")
_DEEPEST = 30
_WORD = re.compile(r"[^\W\d]\w*")
# A template with one of these words may use variables that it does not name, or may have a different result each time.
_BEYOND = frozenset(
    ("lookup", "query", "q", "vars", "varnames", "random", "shuffle", "now", "include", "import")
)
# The same for all hosts, but each host has a new object.
_THE_SAME = frozenset(("groups", "hostvars"))


@dataclass
class _Shared:
    """Keeps rendered values that several hosts share, because Jinja takes most of the time of a large check.

    A template's result depends on the variables that it names, and on the variables that those name. If all of these
    are identical objects on two hosts, so is the result.
    """

    rendered: dict[tuple[object, ...], object] = field(default_factory=dict)
    words: dict[int, tuple[object, frozenset[str]]] = field(default_factory=dict)

    def key(self, raw: object, variables: Mapping[str, object]) -> tuple[object, ...] | None:
        """Return the key of a result among a host's variables, or None if it may depend on other variables."""
        key: dict[str, object] = {}
        left = [raw]
        while left:
            words = self._words(left.pop())
            if words & _BEYOND:
                return None
            for word in words:
                if word in variables and word not in key and word not in _THE_SAME:
                    value = variables[word]
                    key[word] = str(value) if isinstance(value, str) else id(value)
                    left.append(value)
        return (id(raw), frozenset(key.items()))

    def _words(self, raw: object) -> frozenset[str]:
        if id(raw) not in self.words:
            # Keep the value too, so that its id is not reused.
            self.words[id(raw)] = (raw, frozenset(_words_in(raw)))
        return self.words[id(raw)][1]


def _words_in(raw: object, depth: int = 0) -> set[str]:
    """Return all words of the templates inside a value, which include the variables that they name."""
    if isinstance(raw, str):
        return set(_WORD.findall(raw)) if _TEMPLATE.search(raw) else set()
    if raw is None or isinstance(raw, (bool, int, float)):
        return set()
    found: set[str] = set()
    if depth > _DEEPEST or not isinstance(raw, (Mapping, list)):
        return {*_BEYOND}
    for item in [*raw.keys(), *raw.values()] if isinstance(raw, Mapping) else raw:
        found |= _words_in(item, depth + 1)
    return found


@dataclass
class _Host:
    """Renders the variables of one host."""

    name: str
    specs: Specs
    variables: dict[str, object]
    render: Render
    plain: dict[int, tuple[object, object]]
    shared: _Shared
    failures: list[RenderFailure] = field(default_factory=list)

    def value(self, name: str, raw: object, given: bool) -> object:
        if id(raw) in self.plain:
            return self.plain[id(raw)][1]
        if not _needs_rendering(raw):
            value = _native(raw)
            # Keep the raw value too, so that its id is not reused.
            self.plain[id(raw)] = (raw, value)
            return value
        key = self.shared.key(raw, self.variables)
        if key is not None and key in self.shared.rendered:
            return self.shared.rendered[key]
        before = len(self.failures)
        value = self._rendered((name,), raw, given)
        if key is not None and len(self.failures) == before:
            self.shared.rendered[key] = value
        return value

    def _rendered(self, path: Path, raw: object, given: bool) -> object:
        try:
            return _native(self.render(raw))
        # The user's own lookup and filter plugins may raise anything; each exception becomes one problem.
        except Exception as error:  # noqa: BLE001  # see above
            if len(path) < _DEEPEST and isinstance(raw, Mapping) and raw:
                return {
                    _native(key): self._rendered((*path, _native(key)), item, given)
                    for key, item in raw.items()
                }
            if len(path) < _DEEPEST and isinstance(raw, list) and raw:
                return [
                    self._rendered((*path, index), item, given) for index, item in enumerate(raw)
                ]
            self._fail(path, raw, given, error)
            return UNKNOWN

    def _fail(self, path: Path, raw: object, given: bool, error: Exception) -> None:
        secret = self.specs.is_hidden(path)
        message, missing = _reason(error, secret)
        shown = "" if secret or not isinstance(raw, str) else redact.show(str(raw), False)
        plugin = _plugin(error)
        self.failures.append(RenderFailure(path, self.name, message, shown, given, missing, plugin))


def build(
    specs: Specs,
    groups: Mapping[str, Sequence[str]],
    variables: Callable[[str], dict[str, object]],
    make_render: MakeRender,
    control: Control,
    names: Mapping[str, str],
) -> Model:
    """Return the model of all our variables for all hosts of `fleet` and its member groups.

    Args:
        specs: The roles.
        groups: The inventory's groups.
        variables: A function that returns all variables of a host, not rendered.
        make_render: A function that takes a host's variables and returns one that renders values with them.
        control: The control side.
        names: The inventory's name of each of our groups.
    """
    of_ours = {ours: groups.get(theirs, ()) for ours, theirs in names.items()}
    hosts: dict[str, dict[str, object]] = {}
    given: dict[str, frozenset[str]] = {}
    failures: list[RenderFailure] = []
    plain: dict[int, tuple[object, object]] = {}
    raw: dict[str, Mapping[str, object]] = {}
    shared = _Shared()
    for name in dict.fromkeys(host for group in (FLEET, *MEMBER_GROUPS) for host in of_ours[group]):
        own = raw[name] = variables(name)
        roles = [
            role
            for role in specs.roles.values()
            if any(name in of_ours[group] for group in specs.groups_of(role.name))
            or FLEET in specs.groups_of(role.name)
        ]
        given[name] = frozenset(key for key in own if isinstance(key, str))
        hosts[name], failed = _host(name, specs, own, roles, make_render, plain, shared)
        failures += failed
    return Model(specs, groups, hosts, given, control, tuple(failures), raw, group_names=names)


def _host(
    name: str,
    specs: Specs,
    own: dict[str, object],
    roles: Sequence[RoleSpec],
    make_render: MakeRender,
    plain: dict[int, tuple[object, object]],
    shared: _Shared,
) -> tuple[dict[str, object], list[RenderFailure]]:
    together: dict[str, object] = {}
    for role in specs.roles.values():
        together.update(role.defaults)
    together.update(own)
    work = _Host(name, specs, together, make_render(together), plain, shared)
    values: dict[str, object] = {}
    for key in (*specs.options, *CONNECTION, *ACCESS):
        if key in own:
            values[key] = work.value(key, own[key], given=True)
    for key in PASSWORDS:
        if key in own:
            work.value(key, own[key], given=True)
    for role in roles:
        together["role_path"] = role.path
        for key, raw in role.defaults.items():
            if key not in own and key in specs.options and not _of_the_roles_own(raw):
                values[key] = work.value(key, raw, given=False)
    failures = [failure for failure in work.failures if failure.path[0] not in ACCESS]
    return {key: value for key, value in values.items() if value is not UNKNOWN}, failures


def secrets_of(model: Model) -> frozenset[str]:
    """Return all strings that no message may contain: those below secret names and `no_log` options.

    A word of our variables' names, such as `secret`, hides nothing and would make messages unreadable.
    """
    # Hosts share most of their values. The model keeps them all, so an id belongs to one value.
    values = {
        (name, id(value)): value
        for variables in model.hosts.values()
        for name, value in variables.items()
    }
    found: set[str] = set()
    for (name, _), value in values.items():
        found.update(_secrets(model.specs, (name,), value))
    names = " ".join(model.specs.options)
    return frozenset(secret for secret in found if secret.strip().lower() not in names)


def _secrets(specs: Specs, path: tuple[object, ...], value: object) -> set[str]:
    if specs.is_secret(path):
        return set(redact.leaves(value))
    found: set[str] = set()
    if isinstance(value, Mapping):
        for key, item in value.items():
            found |= _secrets(specs, (*path, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found |= _secrets(specs, (*path, index), item)
    return found


def _reason(error: Exception, secret: bool) -> tuple[str, str]:
    """Return why a template failed, and the undefined name if that is the reason."""
    if isinstance(error, AnsibleUndefinedVariable):
        text = redact.one_line(str(error), 300)
        found = _UNDEFINED.search(text)
        return f"can't be rendered: {text}", found[1] if found else ""
    plugin, text = _plugin(error), str(error).lower()
    # A lookup such as community.sops.sops has its own keys.
    if "vault" in type(error).__name__.lower() or (
        "decrypt" in text and ("vault secret" in text or not plugin.startswith("lookup"))
    ):
        return ENCRYPTED, ""
    if isinstance(error, RecursionError):
        return "refers to itself, or is nested too deeply", ""
    if secret and plugin:
        return f"can't be rendered: the {plugin} failed. What it said may contain the secret", ""
    if secret or not isinstance(error, AnsibleError):
        return f"can't be rendered ({type(error).__name__})", ""
    return f"can't be rendered: {hide_logins(redact.one_line(str(error), 300))}", ""


def _plugin(error: Exception) -> str:
    """Return kind and name of the plugin that failed in a template, or an empty string."""
    found = isinstance(error, AnsibleTemplatePluginError) and _PLUGIN.search(str(error))
    return f"{found[1]} {found[2]}" if found else ""


def _of_the_roles_own(raw: object) -> bool:
    """Return whether a default needs data that only a run of the role has: facts, or files of the control side."""
    return isinstance(raw, str) and ("ansible_facts" in raw or "lookup(" in raw)


def _needs_rendering(raw: object, depth: int = 0) -> bool:
    """Return whether rendering may change a value, as it does with templates and encrypted values."""
    if depth > _DEEPEST:
        return True
    if isinstance(raw, str):
        return _TEMPLATE.search(raw) is not None
    if raw is None or isinstance(raw, (bool, int, float)):
        return False
    if isinstance(raw, Mapping):
        return any(
            _needs_rendering(key, depth + 1) or _needs_rendering(item, depth + 1)
            for key, item in raw.items()
        )
    if isinstance(raw, list):
        return any(_needs_rendering(item, depth + 1) for item in raw)
    return True


def _native(value: object, depth: int = 0) -> object:
    """Return the value without Ansible's tags: plain containers, strings and numbers."""
    if depth > _DEEPEST:
        raise RecursionError
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_native(key, depth + 1): _native(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_native(item, depth + 1) for item in value]
    return value
