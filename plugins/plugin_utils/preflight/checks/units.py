"""Checks the options of units, which workers, the web process, beat and Flower share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ...desired.option import Option, as_number
from ...desired.unit_options import RESERVED, UNIT
from ...desired.worker_options import WORKER
from ..model.inventory import Model, Problem, as_list, as_mapping, as_strings, dotted, each_process
from .sandbox import VISIBLE, hidden_by_sandbox
from .values import kind_of

_MIB: Final = 2**20
# A process with Celery needs more than this before it runs its first task.
LEAST_MEMORY: Final = 32 * _MIB
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)")
_NOT_SYSTEMDS: Final = "not a value that systemd understands here"
_UNQUOTABLE = re.compile(r'["\x00-\x1f\x7f]')
_DIRECTIVE = re.compile(r"[A-Z][A-Za-z0-9]+")
# systemd joins a line that ends with a backslash with the next one.
_NOT_ONE_LINE = re.compile(r"[\x00-\x1f\x7f]|\\\s*$")
_PATHS: Final = ("read_write_paths", "requires_mounts_for")

Path = tuple[str, ...]


def check_units(model: Model) -> Iterator[Problem]:
    """Check the options of each unit. `workers` checks ranges and syntax of all options of workers."""
    for path, options, hosts in each_process(model):
        is_worker = path[0] == "celery_worker_instances"
        if not is_worker:
            yield from check_options(model, path, options, UNIT, hosts)
        faults = (
            *_memory(options),
            *_paths(options),
            *_lines(options, WORKER if is_worker else UNIT),
        )
        for below, value, message, remedy in faults:
            whole = (*path, *below)
            yield Problem(
                dotted(whole), message, remedy, value=model.show(whole, value), hosts=hosts
            )


def check_options(
    model: Model,
    path: Path,
    options: Mapping[str, object],
    table: Iterable[Option],
    hosts: tuple[str, ...],
) -> Iterator[Problem]:
    """Check the range and the syntax of each option of a table."""
    for option in table:
        value = options.get(option.name)
        number = as_number(value)
        outside = "" if number is None else option.violation(number)
        remedy = f"write {option.bounds}"
        if option.syntax and isinstance(value, (str, int)):
            outside = "" if option.fits(str(value)) else _NOT_SYSTEMDS
            remedy = _suggested_size(str(value), option) or f"write it as in {option.like}"
        if outside:
            yield Problem(
                dotted((*path, option.name)),
                f"is {outside}",
                remedy,
                value=model.show((*path, option.name), value),
                hosts=hosts,
            )


def memory_bytes(value: object) -> float | None:
    """Return the bytes of a limit in systemd's notation; None for a percentage, infinity or an invalid value."""
    found = _SIZE.fullmatch(str(value))
    return float(found[1]) * 1024.0 ** " KMGT".index(found[2] or " ") if found else None


def _suggested_size(text: str, option: Option) -> str:
    """Return a question with the size that another spelling, such as 512MB, probably means."""
    found = re.fullmatch(r"([0-9.]+) ?([kmgt])(?:i?b|i)?", text.strip(), re.IGNORECASE)
    guess = f"{found[1]}{found[2].upper()}" if found else ""
    return f"did you mean {guess}?" if guess and option.fits(guess) else ""


# What is wrong in a unit's options: the path below them, the value, the message and the remedy.
Fault = tuple[tuple[object, ...], object, str, str]


def _memory(options: Mapping[str, object]) -> Iterator[Fault]:
    """Yield memory limits that are far off, mostly because of a wrong unit."""
    for key in ("memory_max", "memory_high"):
        size = memory_bytes(options.get(key))
        if size is not None and size < LEAST_MEMORY:
            unit = "a number without a unit is bytes"
            likely = str(options[key]).isdigit() and LEAST_MEMORY / _MIB <= size < 10**6
            yield (
                (key,),
                options[key],
                f"is less than a process of Celery needs to start ({LEAST_MEMORY // _MIB}M or more)",
                f"did you mean {options[key]}M? {unit.capitalize()}"
                if likely
                else f"write it as in 512M or 2G; {unit}",
            )
    if _above(options.get("memory_high"), options.get("memory_max")):
        yield (
            ("memory_high",),
            options["memory_high"],
            f"is above memory_max ({options['memory_max']}), so it has no effect",
            "write less than memory_max, or remove it",
        )


def _above(one: object, other: object) -> bool:
    """Return whether a limit is above another one of the same unit, bytes or percent."""
    for read in (memory_bytes, _percent):
        first, second = read(one), read(other)
        if first is not None and second is not None:
            return first > second
    return False


def _percent(value: object) -> float | None:
    text = str(value)
    return as_number(text[:-1]) if text.endswith("%") else None


def _paths(options: Mapping[str, object]) -> Iterator[Fault]:
    """Yield paths that can't be one quoted word in a unit, and paths that are not absolute."""
    for name in _PATHS:
        for number, text in enumerate(as_strings(options.get(name))):
            # systemd's prefixes: - for a path that may be missing, + for one below RootDirectory=.
            plain = text.lstrip("-+") if name == "read_write_paths" else text
            if _UNQUOTABLE.search(text):
                yield (
                    (name, number),
                    text,
                    "has a quotation mark or a control character, which systemd does not accept in a path here",
                    "rename the directory",
                )
            elif not plain.startswith("/"):
                yield (name, number), text or '""', "is not an absolute path", "begin it with /"
            elif name == "read_write_paths" and (hidden := hidden_by_sandbox(plain, options)):
                yield (name, number), text, f"is {hidden}", VISIBLE


def _lines(options: Mapping[str, object], table: Iterable[Option]) -> Iterator[Fault]:
    """Yield directives that conflict with the fleet's own or an option's, or are not valid lines of a unit."""
    set_by = {option.directive: option.name for option in table if option.directive}
    for name, given in as_mapping(options.get("unit_lines")).items():
        where = ("unit_lines", name)
        if not _DIRECTIVE.fullmatch(name):
            remedy = "write names as in LimitNOFILE, and the value after a colon"
            yield where, "", "can't be the name of a directive of systemd", remedy
        elif option := set_by.get(name):
            yield (
                where,
                "",
                "is a directive that an option sets",
                f"write {option} beside unit_lines",
            )
        elif RESERVED.fullmatch(name):
            yield (
                where,
                "",
                "is a directive that the fleet sets itself, to start, stop and compare the process",
                "remove it; if you must have it, write your own drop-in on the host",
            )
        for value in as_list(given) if isinstance(given, list) else [given]:
            if not isinstance(value, (str, int, float)):
                remedy = "write one value, or a list of values to repeat the directive"
                yield where, "", f"has {kind_of(value)} as a value", remedy
            elif isinstance(value, str) and _NOT_ONE_LINE.search(value):
                yield (
                    where,
                    "",
                    "has a value that is not one line of a unit",
                    "write it in one line",
                )
