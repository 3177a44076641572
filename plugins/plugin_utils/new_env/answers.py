"""Holds the values given for the options, and the mistakes found in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..preflight.checks import source
from .environment import Project
from .options import BY_NAME, Mistake


@dataclass
class Answers:
    """The given values, which are read one by one.

    Attributes:
        given: Option -> its value, as it was typed.
        project: The directories from which the program reads and to which it writes.
        mistakes: The mistakes found so far; methods add to it instead of raising.
    """

    given: Mapping[str, str]
    project: Project
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, option: str, message: str, remedy: str, value: str | None = None) -> None:
        """Record that an option's value is wrong; `value` is the part of it that is shown, by default all."""
        shown = self.given.get(option, "") if value is None else value
        self.mistakes.append(Mistake(option, shown, message, remedy))

    def check_text(self, option: str, value: str) -> None:
        """Refuse a value that can't be written to a file."""
        if not value:
            self.wrong(
                option,
                "is empty",
                f"leave it out, or write it as in {BY_NAME[option].typed}",
            )
        elif not value.isprintable():
            self.wrong(option, "has a line end or a control character", "write it on one line")
        elif re.search(r"\{[{%#]", value):
            self.wrong(
                option,
                "contains what Ansible reads as a template ({{, {% or {#)",
                "remove that, and put the template into the generated files",
            )

    def fitting(self, option: str, fits: Callable[[str], bool], message: str, remedy: str) -> str:
        """Return a value, and refuse it with this message unless it fits; an empty string if none was given."""
        value = self.given.get(option, "")
        if value and not fits(value):
            self.wrong(option, message, remedy)
        return value

    def choice(self, option: str, choices: tuple[str, ...], default: str) -> str:
        """Return an option's value, which has to be one of several words."""
        value = self.given.get(option) or default
        if value not in choices:
            self.wrong(option, "is not an allowed value", f"write {' or '.join(choices)}")
        return value

    def items(self, option: str) -> tuple[str, ...]:
        """Return the items of a list, and refuse an item that is repeated."""
        found: list[str] = []
        for item in filter(None, map(str.strip, self.given.get(option, "").split(","))):
            if item in found:
                self.wrong(option, "is listed twice", "write it once", item)
            else:
                found.append(item)
        if self.given.get(option) and not found:
            self.wrong(
                option,
                "has nothing between its commas",
                f"write it as in {BY_NAME[option].example}",
            )
        return tuple(found)

    def pairs(self, option: str, wanted: str) -> Iterator[tuple[str, str]]:
        """Yield the items of a list of `key=value`; in the message `wanted` says what an item has to be."""
        for item in self.items(option):
            key, equals, value = (part.strip() for part in item.rpartition("="))
            if equals and key and value:
                yield key, value
            else:
                self.wrong(
                    option, f"is not a {wanted}", f"write it as in {BY_NAME[option].example}", item
                )

    def at(self, text: str) -> Path:
        """Return a given path, which may be relative to the directory in which the program runs."""
        return self.project.base / source.expand_home(text)
