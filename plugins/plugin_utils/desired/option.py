"""Defines an option of the inventory: the type of the tables in the files `*_options.py` here.

Preflight's checks, the functions that compute the desired state, the roles' argument specs and the reference page read
these tables. `python scripts/reference.py` writes the last two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["str", "path", "int", "float", "bool", "list", "dict"]


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Name of a variable, or a key below one.
        kind: Its type, as argument specs call it.
        meaning: Text of the reference page, in Ansible's markup. Each line is a paragraph.
        default: Value if it is not set; None for no value, or if something else decides.
        choices: The values that it may have.
        required: Whether it has to be set.
        elements: Type of a list's elements.
        lowest: Smallest number.
        highest: Largest number.
        syntax: Pattern of the whole text.
        like: Examples of that syntax, for messages.
        flag: Flag of `celery worker` that passes it to the process. The option is named after it, with underscores.
        directive: Directive in the section [Service] of the worker's unit with which systemd enforces it. The option is
            named after it, in lower case and with underscores.
        words: Values of the directive for false and true.
        secret: Whether the value must never be shown.
        options: Keys below it.
    """

    name: str
    kind: Kind
    meaning: str
    default: Any = None
    choices: tuple[str, ...] = ()
    required: bool = False
    elements: Kind | None = None
    lowest: float | None = None
    highest: float | None = None
    syntax: re.Pattern[str] | None = None
    like: str = ""
    flag: str = ""
    directive: str = ""
    words: tuple[str, str] = ("no", "yes")
    secret: bool = False
    options: tuple[Option, ...] = ()

    def spec(self) -> dict[str, Any]:
        """Return the option in the form of a role's argument spec, which has no bounds."""
        paragraphs = self.meaning.split("\n")
        found: dict[str, Any] = {
            "description": paragraphs if len(paragraphs) > 1 else paragraphs[0],
            "type": self.kind,
            "elements": self.elements,
            "required": self.required or None,
            "no_log": self.secret or None,
            "choices": list(self.choices) or None,
            "default": self.default,
            "options": {option.name: option.spec() for option in self.options} or None,
        }
        return {key: value for key, value in found.items() if value is not None}

    @property
    def bounds(self) -> str:
        """The range of a number in words; an empty string if there is none."""
        low, high = (None if n is None else _plain(n) for n in (self.lowest, self.highest))
        if low is not None and high is not None:
            return f"{low} to {high}"
        return f"{low} or more" if low is not None else f"{high} or less" if high else ""

    def violation(self, number: float) -> str:
        """Return how a number violates the range, such as `below 1`; an empty string if it does not."""
        return outside(number, self.lowest, self.highest)

    def fits(self, text: str) -> bool:
        """Return whether a text has the option's syntax; True for an option without one."""
        return self.syntax is None or self.syntax.fullmatch(text) is not None

    def parsed(self, value: object) -> Any:
        """Return a value of the inventory if it has the option's type and is a choice; else None."""
        if self.kind in ("int", "float"):
            return as_number(value)
        if self.kind in ("bool", "dict"):
            return value if isinstance(value, bool if self.kind == "bool" else Mapping) else None
        if self.kind == "list":
            # Another check reports its type; the meaning of a text with commas is plain.
            items = re.split(r"\s*,\s*", value) if isinstance(value, str) else value
            found = (
                [one for one in items if isinstance(one, str)] if isinstance(items, list) else []
            )
            return found or None
        text = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        return value if text and (not self.choices or value in self.choices) else None


def outside(number: float, lowest: float | None, highest: float | None) -> str:
    """Return how a number violates a range, such as `below 1`; an empty string if it does not."""
    if lowest is not None and number < lowest:
        return f"below {_plain(lowest)}"
    return f"above {_plain(highest)}" if highest is not None and number > highest else ""


def _plain(number: float) -> str:
    """Return all digits of a bound, which the format `g` rounds to six."""
    return f"{number:.15g}"


def as_number(value: object) -> float | None:
    """Return a finite number; also of a string, which Ansible's argument specs accept."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def parsed(options: Iterable[Option], given: Mapping[str, object]) -> dict[str, Any]:
    """Return the values that have their option's type, for functions that trust their arguments.

    Values that could not be rendered, or have another type, are left out: preflight reports them separately.
    """
    return {
        option.name: value
        for option in options
        if option.name in given and (value := option.parsed(given[option.name])) is not None
    }


def flags(options: Iterable[Option], given: Mapping[str, Any]) -> list[str]:
    """Return the words of the command line that pass the options to a process."""
    words: list[str] = []
    for option in options:
        value = given.get(option.name, option.default)
        if not option.flag or value is None or value is False or value == []:
            continue
        if value is True:
            words.append(option.flag)
            continue
        text = (
            ",".join(str(one) for one in value) if isinstance(value, (list, tuple)) else str(value)
        )
        words += [f"{option.flag}={text}"] if option.flag.startswith("--") else [option.flag, text]
    return words


def directives(options: Iterable[Option], given: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the lines of a unit that enforce the options, each with its `option`, `line` and `section`."""
    found = []
    for option in options:
        value = given.get(option.name, option.default)
        if not option.directive or value is None:
            continue
        texts = [f'"{one}"' for one in value] if option.kind == "list" else [str(value)]
        if option.kind in ("int", "bool"):
            texts = [option.words[bool(value)] if option.kind == "bool" else str(int(value))]
        found += [
            {
                "option": option.name,
                "line": f"{option.directive}={text}",
                "section": "Service",
            }
            for text in texts
        ]
    return found
