"""Redacts secrets in the output of programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from .environment_file import environment_text

# Matches to the last @ before a blank: a password may contain any other character.
_URL_LOGIN = re.compile(r"(?<=://)\S*@")

# Shorter values are not secrets, and redacting them would damage ordinary words.
_SHORTEST = 4

# Passwords in a URL: up to the last @, because an unencoded password may contain one, and up to the first.
_PASSWORDS = (
    re.compile(r"://[^/\s:@]*:(\S*)@"),
    re.compile(r"://[^/\s:@]*:([^\s@]*)@"),
)

# Control characters except tab and line feed.
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10}, "\N{REPLACEMENT CHARACTER}")

# Keys of a host's answer with text that is shown to users. The other values, such as names and paths, are used by tasks
# and may contain the value of a secret by chance.
_TEXT = frozenset(
    ("StatusText", "error", "errors", "journals", "msg", "status", "tail", "warnings")
)


def hide_logins(text: str) -> str:
    """Return the text with user names and passwords in URLs replaced."""
    return _URL_LOGIN.sub("***@", text)


def printable(answer: Any) -> Any:
    """Replace control characters in all strings of a host's answer, at any depth.

    On a terminal they could hide or forge lines, for example of a plan that is about to be confirmed.
    """
    if isinstance(answer, Mapping):
        return {printable(key): printable(item) for key, item in answer.items()}
    if isinstance(answer, list):
        return [printable(item) for item in answer]
    return answer.translate(_CONTROLS) if isinstance(answer, str) else answer


def clean(text: str, secrets: Iterable[str]) -> str:
    """Return a program's output without the secrets in its environment."""
    for secret in sorted(
        {item for item in secrets if len(item) >= _SHORTEST}, key=len, reverse=True
    ):
        text = text.replace(secret, "***")
    return hide_logins(text)


def clean_answer(answer: Any, secrets: Iterable[str] = (), text: bool = False) -> Any:
    """Redact all text to show in a host's answer, at any depth.

    Args:
        answer: The answer of a script or a module.
        secrets: Values that may not be shown; logins in URLs are always redacted.
        text: Whether all strings in it are text to show.
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

    This includes each line of a multi-line value, and the password of a URL, both encoded and decoded.
    """
    values = [environment_text(value) for value in environment.values()]
    lines = [line for value in values if "\n" in value for line in value.splitlines()]
    written = [found for value in values for form in _PASSWORDS for found in form.findall(value)]
    return [*values, *lines, *written, *map(unquote, written)]
