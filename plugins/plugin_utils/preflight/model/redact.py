"""Redacts secrets in values that are shown to users."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from ansible_collections.celery_fleet.core.plugins.module_utils.redact import hide_logins
from ansible_collections.celery_fleet.core.plugins.module_utils.text import shortened

SECRET = "<secret>"  # noqa: S105  # a replacement for secrets

# A name with one of these words is treated as the name of a secret. This hides too much rather than too little: users
# can look up a hidden value in their inventory, but a secret that was shown is lost.
_SECRET_NAME = re.compile(r"pass|pwd|secret|key|token|credential", re.IGNORECASE)
_LONGEST = 100


def is_secret_name(name: object) -> bool:
    """Return whether a variable or key of this name may hold a secret."""
    return isinstance(name, str) and _SECRET_NAME.search(name) is not None


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Return the text without line ends and control characters, shortened."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shortened(flat, longest)


def show(value: object, secret: bool) -> str:
    """Return a value as one line, without the values of keys that name secrets.

    An empty secret is shown as such, because that is the mistake.
    """
    if secret:
        return '""' if value == "" else "null" if value is None else SECRET
    try:
        return one_line(hide_logins(_text(_hidden(value))))
    except RecursionError:
        return "…"


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each of these secrets replaced, the longest first.

    Secrets of fewer than six characters stay: they are as likely to be part of an ordinary word.
    """
    # A value is shown on one line and perhaps quoted, so a secret with a line end looks different there.
    shown = {form for secret in secrets for form in (secret, secret.strip(), _quoted(secret))}
    for secret in sorted(shown, key=len, reverse=True):
        if len(secret) >= 6:
            text = text.replace(secret, SECRET)
    return text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def leaves(value: object) -> Iterable[str]:
    """Yield all strings inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)


def _hidden(value: object) -> object:
    if isinstance(value, Mapping):
        return {
            str(key): SECRET if is_secret_name(key) else _hidden(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return value


def _text(value: object) -> str:
    if isinstance(value, str) and value and "\n" not in value and value.strip() == value:
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
