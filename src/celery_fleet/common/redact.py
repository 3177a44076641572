"""Take secrets out of what is logged, printed or reported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MASK = "***"

# Greedy up to the last @ of the word: an unquoted password may contain @ or /.
_URL = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@'\"]*):[^\s'\"]*@")
# If a value is known to be a URL, its user part ends at the last @, even if others come before.
_USERINFO = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*://(?:[^/\s:@'\"]*:)?).*@", re.DOTALL)
_URL_NAME = re.compile(r"(^|_)urls?$|backend$", re.IGNORECASE)
# A routing_key is not a secret. It is often a queue's name, which would then be masked everywhere.
_SECRET_NAME = re.compile(
    r"pass|secret|token|api_?key|(^|(?<!routing)_)key$|signature", re.IGNORECASE
)

#: Shorter strings are not treated as secrets: masking them would mangle ordinary words.
SHORTEST_SECRET = 4


def redact(text: object, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` without the passwords of URLs and without any of ``secrets``."""
    result = str(text)
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            result = result.replace(secret, MASK)
    return _URL.sub(rf"\g<head>:{MASK}@", result)


def redact_all(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Return ``value`` with every text in its dictionaries and lists redacted, at any depth."""
    if isinstance(value, Mapping):
        return {
            key: redact_all(_without_userinfo(str(key), item), secrets)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_all(item, secrets) for item in value]
    return redact(value, secrets) if isinstance(value, str) else value


def redact_value(name: str, value: Any) -> str:
    """Return the value of setting ``name`` in a form that may be logged."""
    if value is not None and _SECRET_NAME.search(name):
        return MASK
    return redact(_shown(_without_userinfo(name, value)))


def _without_userinfo(name: str, value: Any) -> Any:
    """Return ``value`` with the passwords of its URLs masked, if setting ``name`` holds URLs."""
    if not _URL_NAME.search(name):
        return value
    if isinstance(value, (list, tuple)):
        return [_without_userinfo(name, item) for item in value]
    return _USERINFO.sub(rf"\g<head>{MASK}@", value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key!r}: {_shown_in(str(key), item)}" for key, item in value.items())
        return f"{{{inside}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown(item) for item in value)}]"
    return repr(value)


def _shown_in(key: str, value: Any) -> str:
    return (
        MASK
        if value is not None and _SECRET_NAME.search(key)
        else _shown(_without_userinfo(key, value))
    )


def secrets_in(value: Any) -> set[str]:
    """Return every password in ``value`` (unredacted settings), quoted and unquoted.

    They are used to mask messages of libraries, which may repeat a password without its URL.
    """
    return {secret for secret in _secrets(value) if len(secret) >= SHORTEST_SECRET}


def _secrets(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets(item, name)
    elif isinstance(value, str):
        if _SECRET_NAME.search(name):
            yield value
        password = ".*" if _URL_NAME.search(name) else r"[^\s'\"]*"
        for url in re.finditer(rf"://[^/\s:@]*:({password})@", value, re.DOTALL):
            yield url.group(1)
            yield unquote(url.group(1))
