"""What a person may see of a program's own words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from ansible_collections.celery_fleet.core.plugins.module_utils.environment_file import (
    environment_text,
)

# To the last @ of the word: a password may hold any character but a blank.
_URL_LOGIN = re.compile(r"(?<=://)\S*@")

# Shorter values are no secrets, and would be struck out of ordinary words.
_SHORTEST = 4

# Of a URL: to its last @, since a password that nobody has encoded may hold one, and to its first.
_PASSWORDS = (
    re.compile(r"://[^/\s:@]*:(\S*)@"),
    re.compile(r"://[^/\s:@]*:([^\s@]*)@"),
)

# Keys of a host's answer whose values are text for people. Tasks go by the names and paths elsewhere in it, which may
# contain the value of a secret by chance.
_TEXT = frozenset(
    ("StatusText", "error", "errors", "journals", "msg", "status", "tail", "warnings")
)


def hide_logins(text: str) -> str:
    """The text with users and passwords of URLs replaced."""
    return _URL_LOGIN.sub("***@", text)


def clean(text: str, secrets: Iterable[str]) -> str:
    """A program's own words without the secrets of its environment."""
    for secret in sorted(
        {item for item in secrets if len(item) >= _SHORTEST}, key=len, reverse=True
    ):
        text = text.replace(secret, "***")
    return hide_logins(text)


def clean_answer(answer: Any, secrets: Iterable[str] = (), text: bool = False) -> Any:
    """Redact all text for people in what a host has answered, at any depth.

    Args:
        answer: What a script or a module has answered.
        secrets: Values that may not be shown; logins of URLs never are.
        text: Whether all strings in it are text for people.
    """
    if isinstance(answer, Mapping):
        return {
            key: clean_answer(item, secrets, text or key in _TEXT) for key, item in answer.items()
        }
    if isinstance(answer, list):
        return [clean_answer(item, secrets, text) for item in answer]
    return clean(answer, secrets) if text and isinstance(answer, str) else answer


def secrets_of(environment: Mapping[str, Any]) -> list[str]:
    """Return the values of a secret environment.

    Beside them each line of one that has several, and the password of one that is a URL, as it is written there and as
    a library prints it.
    """
    values = [environment_text(value) for value in environment.values()]
    lines = [line for value in values if "\n" in value for line in value.splitlines()]
    written = [found for value in values for form in _PASSWORDS for found in form.findall(value)]
    return [*values, *lines, *written, *map(unquote, written)]
