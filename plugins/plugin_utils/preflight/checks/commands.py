"""Checks the commands of a release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.application_options import COMMAND
from ...desired.option import as_number
from ..model.inventory import UNKNOWN, Model, Problem, as_list, dotted
from ..model.report import with_hosts
from .values import kind_of, not_a_mapping, suggestion, unknown_keys

NAME: Final = "celery_release_commands"

Path = tuple[object, ...]

_KEYS: Final = {option.name: option for option in COMMAND}


def check_commands(model: Model) -> Iterator[Problem]:
    """Check that each command has its own name, a command line and only known keys."""
    values = model.distinct(NAME, model.hosts_of_role("celery_release"))
    if len(values) > 1:
        yield Problem(
            NAME,
            "differs between hosts, but commands run in one order over all of them",
            "set it once, for all hosts of the fleet",
            hosts=tuple(host for _, hosts in values[1:] for host in hosts),
        )
        return
    for value, hosts in values:
        yield from with_hosts(hosts, _commands(model, as_list(value)))


def _commands(model: Model, value: list[object]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, item in enumerate(value):
        path = (NAME, index)
        if item is UNKNOWN:
            continue
        if not isinstance(item, Mapping):
            example = (
                "{name: migrate, argv: [python, manage.py, migrate], when: release, hosts: one}"
            )
            yield not_a_mapping(model, path, item, f"write it as in {example}")
            continue
        # YAML 1.1 reads the old key `on` as true.
        body = {"on" if key is True else key: part for key, part in item.items()}
        yield from unknown_keys(path, body, tuple(_KEYS))
        yield from _name(model, path, body, seen)
        yield from _argv(model, path, body)
        yield from _choices(model, path, body)
        yield from _timeout(model, path, body)
        yield from _umask(model, path, body)


def _name(
    model: Model, path: Path, body: Mapping[object, object], seen: dict[str, int]
) -> Iterator[Problem]:
    name = body.get("name")
    place = dotted((*path, "name"))
    if "name" not in body:
        yield Problem(place, "is not set", "name the command, as in migrate")
    elif name is UNKNOWN:
        return
    elif not isinstance(name, str) or not _KEYS["name"].fits(name):
        yield Problem(
            place,
            "can't be the name of a command",
            f"use {_KEYS['name'].like}",
            value=model.show((*path, "name"), name),
        )
    elif name in seen:
        yield Problem(
            place,
            f"is also the name of {dotted((NAME, seen[name]))}",
            "give each command its own name; runs use it to know which commands are done",
            value=name,
        )
    else:
        seen[name] = int(str(path[-1]))


def _argv(model: Model, path: Path, body: Mapping[object, object]) -> Iterator[Problem]:
    argv = body.get("argv")
    place = (*path, "argv")
    example = "write it as in [python, manage.py, migrate, --noinput]"
    if "argv" not in body:
        yield Problem(dotted(place), "is not set", example)
    elif argv is UNKNOWN:
        return
    elif not isinstance(argv, list):
        yield Problem(dotted(place), f"is {kind_of(argv)}, but must be a list of strings", example)
    elif not argv or argv[0] == "":
        yield Problem(dotted(place), "names no program", example)
    else:
        for index, word in enumerate(as_list(argv)):
            if word is not UNKNOWN and (not isinstance(word, str) or "\0" in word):
                yield Problem(
                    dotted((*place, index)),
                    f"is {kind_of(word)}, but must be a string"
                    if not isinstance(word, str)
                    else "has a NUL character, which no command line can contain",
                    "put it in quotes" if not isinstance(word, str) else "remove it",
                    value=model.show((*place, index), word),
                )


def _choices(model: Model, path: Path, body: Mapping[object, object]) -> Iterator[Problem]:
    for key, option in _KEYS.items():
        value, known = body.get(key, UNKNOWN), option.choices
        if known and value is not UNKNOWN and value not in known:
            near = suggestion(value, known) if isinstance(value, str) else ""
            yield Problem(
                dotted((*path, key)),
                "is none of the allowed values",
                " ".join(part for part in (near, f"allowed are {', '.join(known)}") if part),
                value=model.show((*path, key), value),
            )


def _timeout(model: Model, path: Path, body: Mapping[object, object]) -> Iterator[Problem]:
    value = body.get("timeout", UNKNOWN)
    if value is UNKNOWN:
        return
    number = None if isinstance(value, str) else as_number(value)
    if number is None or number <= 0:
        yield Problem(
            dotted((*path, "timeout")),
            "is not a number of seconds above 0",
            "write the seconds as a number, without quotes or a unit",
            value=model.show((*path, "timeout"), value),
        )


def _umask(model: Model, path: Path, body: Mapping[object, object]) -> Iterator[Problem]:
    value = body.get("umask", UNKNOWN)
    # Without quotes, YAML reads it as a number.
    if value is not UNKNOWN and not (isinstance(value, str) and _KEYS["umask"].fits(value)):
        yield Problem(
            dotted((*path, "umask")),
            "is not a umask",
            f"write it in quotes, as in {_KEYS['umask'].like}",
            value=model.show((*path, "umask"), value),
        )
