"""Checks the types of values against the roles' argument specs.

Ansible's own `ArgumentSpecValidator` checks leaves, as it does later in the roles. This file checks containers,
booleans and empty values more strictly. A role's validation accepts `"a,b"` as a list and `"no"` as a boolean, but the
role then works with the string.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.vault import is_encrypted

from ..model import origin
from ..model.inventory import UNKNOWN, Model, Problem, dotted
from ..model.report import with_hosts
from ..model.specs import ELEMENTS, Option, options_of

Path = tuple[object, ...]

CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"

# Variables of one role that all hosts of the fleet read: each process connects to Redis, and knows all queues.
_OF_ALL_HOSTS: Final = ("celery_worker_instances", "redis_passwords")
# Lists with their own check of the elements (`commands`).
_OWN_ELEMENTS: Final = ("celery_release_commands",)
# Variables for the command line: `-e name=value` turns every value into text, which their roles accept.
COMMAND_LINE: Final = (
    "celery_canary_max_failures",
    "celery_canary_max_growth",
    "celery_canary_max_memory",
    "celery_canary_max_slowdown",
    "celery_canary_min_tasks",
    "celery_canary_seconds",
    "celery_pause_all",
    "celery_pause_hosts",
    "celery_pause_queues",
    "celery_pause_reboot_timeout",
    "celery_pause_wait",
    "celery_pause_workers",
    "celery_restart_all",
    "celery_restart_batch",
    "celery_restart_min_capacity",
    "celery_restart_workers",
    "fleet_confirm",
    "redis_restore_overwrite",
)

_WORDS: Final = {
    dict: "a mapping",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "empty",
}
_WANTED: Final = {
    "dict": ("a mapping", "write it as `key: value` pairs below the name"),
    "list": ("a list", "write it as a list, one `- item` per line or `[item, item]`"),
    "str": ("a string", "write one string, in quotes if it looks like something else"),
    "path": ("a path", "write one path"),
    "bool": ("a boolean", "write true or false, without quotes"),
    "int": ("a whole number", "write a whole number, without a unit and without quotes"),
    "float": ("a number", "write a number, without a unit and without quotes"),
}
# Remedies for a text that is one because the inventory is in INI, which reads values as Python does.
_IN_INI: Final = {
    "bool": "in INI write True or False",
    "list": "in INI write a list as in Python, ['item', 'item'], or move it to a YAML file in group_vars",
    "dict": "in INI write a mapping as in Python, {'key': 'value'}, or move it to a YAML file in group_vars",
}
_RELATIONS: Final = (
    "mutually_exclusive",
    "required_together",
    "required_one_of",
    "required_if",
    "required_by",
)
# Options with their own check of exclusive keys (`source`), which explains more.
_OWN_RELATIONS: Final = ("celery_app_source",)


def check_types(model: Model) -> Iterator[Problem]:
    """Report wrong types, wrong choices, unknown and missing keys in all variables of the inventory."""
    for name, option in model.specs.options.items():
        for given, hosts in model.distinct_given(name):
            value = _from_command_line(given, option) if name in COMMAND_LINE else given
            for problem in with_hosts(hosts, check_value(model, (name,), value, option)):
                yield _in_ini(model, problem, option)


def _in_ini(model: Model, problem: Problem, option: Option) -> Problem:
    """Return the problem; for a wrong text that Ansible read from INI, with what to write there."""
    raw = model.raw.get(problem.hosts[0], {}).get(problem.variable)
    remedy = _IN_INI.get(str(option.get("type")))
    if remedy and isinstance(raw, str) and origin.is_ini(raw):
        return replace(problem, remedy=remedy)
    return problem


def check_vault_tags(model: Model) -> Iterator[Problem]:
    """Refuse ciphertext of ansible-vault that is a text: without the tag `!vault` Ansible does not decrypt it."""
    for name in model.specs.options:
        for value, hosts in model.distinct_given(name):
            for path in _undecrypted((name,), value):
                yield Problem(
                    dotted(path),
                    "is the output of ansible-vault, but Ansible would not decrypt it: there is no tag",
                    "write `!vault |` in place of `|` before it",
                    hosts=hosts,
                )


def _undecrypted(path: Path, value: object) -> Iterator[Path]:
    """Yield the path of each text below a value that is ciphertext."""
    if isinstance(value, str) and is_encrypted(value.lstrip()):
        yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _undecrypted((*path, key), item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _undecrypted((*path, number), item)


def _from_command_line(given: object, option: Option) -> object:
    """Return the value that a text on the command line means; any other value unchanged."""
    if not isinstance(given, str):
        return given
    if option.get("type") == "bool":
        return {"true": True, "false": False}.get(given.lower(), given)
    return given.split(",") if option.get("type") == "list" else given


def check_required(model: Model) -> Iterator[Problem]:
    """Report variables that a role requires and hosts that read them have no value for."""
    failed = {(failure.path[0], failure.host) for failure in model.failures}
    for role in model.specs.roles.values():
        for name, option in role.options.items():
            if option.get("required") is not True:
                continue
            readers = model.hosts_of_role(role.name)
            who = f"the role {role.name} needs"
            if readers and name in _OF_ALL_HOSTS:
                readers, who = model.members("fleet"), "all hosts of the fleet need"
            hosts = tuple(
                host
                for host in readers
                if name not in model.hosts[host] and (name, host) not in failed
            )
            if hosts:
                kind = option.get("type", "str")
                wanted = _WANTED.get(str(kind), (str(kind), ""))[0]
                keys = ", ".join(
                    key
                    for key, inner in options_of(option).items()
                    if inner.get("required") is True
                )
                yield Problem(
                    variable=name,
                    message=f"is not set; {who} it",
                    remedy=f"set it ({wanted}{f' with {keys}' if keys else ''}) in the inventory's "
                    f"group_vars{_where(model, name)}",
                    hosts=hosts,
                )


def check_value(model: Model, path: Path, value: object, option: Option) -> Iterator[Problem]:
    """Yield the problems of one value and everything in it, without hosts."""
    if value is UNKNOWN:
        return
    kind = str(option.get("type", "str"))
    if value is None:
        if not ("default" in option and option["default"] is None) and kind != "raw":
            yield Problem(
                dotted(path), "has no value", _empty_remedy(kind), value=model.show(path, value)
            )
        return
    if kind == "dict":
        yield from _mapping(model, path, value, option)
    elif kind == "list":
        yield from _sequence(model, path, value, option)
    else:
        yield from _leaf(model, path, value, option, kind)


def suggestion(name: str, known: tuple[str, ...], cutoff: float = 0.6) -> str:
    """Return a question with the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else ""


def kind_of(value: object) -> str:
    """Return the type of a value in words, such as `a list`."""
    return _WORDS.get(type(value), f"a {type(value).__name__}")


def not_a_mapping(model: Model, path: Path, value: object, remedy: str) -> Problem:
    """Return the problem of a value that has to be a mapping but is not."""
    return Problem(
        dotted(path),
        f"is {kind_of(value)}, but must be a mapping",
        remedy,
        value=model.show(path, value),
    )


def check_pem(path: Path, text: str, parts: Iterable[str]) -> Iterator[Problem]:
    """Check that a text has these parts of the PEM form. Often it is the path of a file by mistake."""
    missing = [part for part in parts if part not in text]
    if missing:
        yield Problem(
            dotted(path),
            f"is not in PEM form: it lacks {' and '.join(missing)}",
            "give the content of the file, as in {{ lookup('file', inventory_dir ~ '/…') }}",
        )


def safe_key(key: object) -> object:
    """Return an unknown key without a possible secret: `git:https://user:s3cret@host`, without a space, is one key."""
    return f"{key.partition(':')[0]}:…" if isinstance(key, str) and ":" in key else key


def unknown_keys(path: Path, keys: Iterable[object], known: tuple[str, ...]) -> Iterator[Problem]:
    """Report the keys of a mapping that have no meaning in it."""
    for key in keys:
        if key not in known:
            yield Problem(
                dotted((*path, safe_key(key))),
                "is not a known key",
                suggestion(str(key), known) or f"known keys are {', '.join(known)}",
            )


def _mapping(model: Model, path: Path, value: object, option: Option) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield _wrong(model, path, value, "dict")
        return
    options = options_of(option)
    free = len(path) == 1 and path[0] in ELEMENTS
    hidden = model.specs.is_hidden(path)
    for key, item in value.items():
        if not isinstance(key, str):
            yield Problem(
                dotted(path),
                f"has the key {'(not shown)' if hidden else repr(key)}, which is {kind_of(key)}, not a string",
                "put the key in quotes",
            )
        elif free:
            element = model.specs.element_options(str(path[0]))
            named = key if not hidden or key.isidentifier() else "(a name that is not shown)"
            one: Option = {"type": "dict", "options": element}
            yield from check_value(model, (*path, named), item, one)
        elif options and key not in options:
            yield _unknown_key(model, path, key, item, tuple(options), hidden)
        elif options:
            yield from check_value(model, (*path, key), item, options[key])
    for key, below in options.items():
        if below.get("required") is True and key not in value:
            yield Problem(
                dotted((*path, key)),
                "is not set",
                f"set it ({_WANTED.get(str(below.get('type', 'str')), ('a value', ''))[0]})",
            )
    yield from _relations(path, value, option)


def _unknown_key(
    model: Model, path: Path, key: str, item: object, known: tuple[str, ...], hidden: bool
) -> Problem:
    # `worker:s3cret` without a space is one key, so an unknown key among secrets is not shown.
    name = "(a key that is not shown)" if hidden else safe_key(key)
    remedy = suggestion(key, known) or f"known keys are {', '.join(sorted(known))}"
    if hidden:
        remedy += "; mind the space after each colon"
    # The value of an unknown key may be a secret under a misspelt name.
    plain = not hidden and isinstance(item, (bool, int, float))
    shown = model.show((*path, key), item) if plain else ""
    return Problem(dotted((*path, name)), "is not a known key", remedy, value=shown)


def _sequence(model: Model, path: Path, value: object, option: Option) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield _wrong(model, path, value, "list")
        return
    kind = option.get("elements")
    if kind is None or path[0] in _OWN_ELEMENTS:
        return
    element = {**option, "type": kind}
    for key in ("elements", "required", "default"):
        element.pop(key, None)
    for index, item in enumerate(value):
        yield from check_value(model, (*path, index), item, element)


def _leaf(model: Model, path: Path, value: object, option: Option, kind: str) -> Iterator[Problem]:
    if isinstance(value, (dict, list)) and kind in _WANTED:
        yield _wrong(model, path, value, kind)
        return
    if (kind == "bool") != isinstance(value, bool) and kind in (
        "bool",
        "int",
        "float",
        "str",
        "path",
    ):
        # YAML reads yes, no, on and off as booleans, so a boolean instead of a string is an accident.
        yield _wrong(model, path, value, kind)
        return
    choices = option.get("choices")
    options = tuple(choices) if isinstance(choices, list) else ()
    if isinstance(value, (str, int, float, bool)) and not _valid(
        kind, options, type(value).__name__, value
    ):
        if options and _valid(kind, (), type(value).__name__, value):
            words = tuple(str(choice) for choice in options)
            same = [word for word in words if word.lower() == str(value).lower()]
            near = f"did you mean {same[0]}?" if same else suggestion(str(value), words)
            near = "" if model.specs.is_secret(path) else near
            yield Problem(
                dotted(path),
                "is none of the allowed values",
                " ".join(part for part in (near, f"allowed are {', '.join(words)}") if part),
                value=model.show(path, value),
            )
        else:
            yield _wrong(model, path, value, kind)


@lru_cache(maxsize=4096)
def _valid(kind: str, choices: tuple[object, ...], _type: str, value: object) -> bool:
    """Return whether Ansible accepts one leaf. The type's name distinguishes 1 and True in the cache."""
    spec: dict[str, object] = {"type": kind}
    if choices:
        spec["choices"] = list(choices)
    try:
        return not ArgumentSpecValidator({"value": spec}).validate({"value": value}).error_messages
    except (ValueError, ArithmeticError):
        return False  # Ansible's check of whole numbers does not expect infinity


def _wrong(model: Model, path: Path, value: object, kind: str) -> Problem:
    wanted, remedy = _WANTED.get(kind, (f"of type {kind}", f"write a value of type {kind}"))
    return Problem(
        dotted(path),
        f"is {kind_of(value)}, but must be {wanted}",
        remedy,
        value=model.show(path, value),
    )


def _relations(path: Path, value: Mapping[object, object], option: Option) -> Iterator[Problem]:
    relations = {name: option[name] for name in _RELATIONS if option.get(name)}
    if not relations or path[0] in _OWN_RELATIONS:
        return
    given = {key: item for key, item in value.items() if isinstance(key, str) and item is not None}
    spec = {key: {"type": "raw"} for key in options_of(option)}
    validator = ArgumentSpecValidator(spec, **relations)
    # These messages only name keys, never values.
    for message in validator.validate({key: True for key in given if key in spec}).error_messages:
        yield Problem(dotted(path), f"is inconsistent: {message}", "change the keys accordingly")


def _empty_remedy(kind: str) -> str:
    empty = {"dict": "{}", "list": "[]"}.get(kind)
    return (
        f"write {empty} if it should be empty, otherwise give a value"
        if empty
        else ("give a value, or remove the line to get the default")
    )


def _where(model: Model, name: str) -> str:
    return "/…/vault.yml, encrypted by ansible-vault" if model.specs.is_secret((name,)) else ""
