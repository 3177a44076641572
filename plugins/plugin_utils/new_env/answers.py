"""The values that were given for the options, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import source

from .environment import Place
from .options import BY_NAME, Mistake


@dataclass
class Answers:
    """What was given, read value by value.

    Attributes:
        given: Option -> its value, as it was typed.
        place: Where the program runs, and where it writes.
        mistakes: What is wrong so far; methods add to it instead of raising.
    """

    given: Mapping[str, str]
    place: Place
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, option: str, message: str, remedy: str, value: str | None = None) -> None:
        """Note that an option's value is wrong; `value` is what of it is shown, by default all."""
        shown = self.given.get(option, "") if value is None else value
        self.mistakes.append(Mistake(option, shown, message, remedy))

    def check_text(self, option: str, value: str) -> None:
        """Refuse a value that could stand in no file."""
        if not value:
            self.wrong(
                option,
                "is empty",
                f"leave it out, or write it as in {option}={BY_NAME[option].example}",
            )
        elif not value.isprintable():
            self.wrong(option, "has a line end or a control character", "write it on one line")
        elif re.search(r"\{[{%#]", value):
            self.wrong(
                option,
                "has what Ansible takes for a template ({{, {% or {#)",
                "write it without, and put the template into the files that are made",
            )

    def fitting(self, option: str, fits: Callable[[str], bool], message: str, remedy: str) -> str:
        """Return a value, refused with this message unless it fits; empty if none was given."""
        value = self.given.get(option, "")
        if value and not fits(value):
            self.wrong(option, message, remedy)
        return value

    def choice(self, option: str, choices: tuple[str, ...], default: str) -> str:
        """Return one of several words."""
        value = self.given.get(option) or default
        if value not in choices:
            self.wrong(option, "is not to be chosen from", f"say {' or '.join(choices)}")
        return value

    def items(self, option: str) -> tuple[str, ...]:
        """Return the items of a list, each once."""
        found: list[str] = []
        for item in filter(None, map(str.strip, self.given.get(option, "").split(","))):
            if item in found:
                self.wrong(option, "is there twice", "write it once", item)
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
        """Yield the items of a list of `key=value`; `wanted` says in the message what an item is."""
        for item in self.items(option):
            key, equals, value = (part.strip() for part in item.rpartition("="))
            if equals and key and value:
                yield key, value
            else:
                self.wrong(
                    option, f"is no {wanted}", f"write it as in {BY_NAME[option].example}", item
                )

    def at(self, text: str) -> Path:
        """Return the path that was given, as seen from where the program runs."""
        return self.place.base / source.expand_home(text)
