"""Checks the application's environment: names that systemd accepts, and URLs that can be composed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from ansible_collections.celery_fleet.core.plugins.module_utils.environment_file import (
    VARIABLE_NAME,
)

from ...desired.option import as_number
from ..model.inventory import Model, Problem, Severity, as_mapping, as_text, dotted, each_process
from ..model.report import with_hosts
from .network import is_address, is_port
from .values import kind_of, safe_key

URLS: Final = "celery_app_env_urls"
_OTHERS: Final = ("celery_app_env", "celery_app_secret_env")
# Variables that the fleet itself sets or removes in every process (`desired/environment.py:process_environment`,
# `celery_fleet.system.launch`), each with its replacement.
_SETTINGS: Final = "Celery gets the addresses of the fleet's Redis in its settings"
_OVERRULED: Final = {
    "PYTHONPATH": "celery_app_source.directory says where the code's imports begin",
    "CELERY_LOADER": "the fleet's loader calls the application's own configuration",
    "VIRTUAL_ENV": "it is the release's",
    "PWD": "it is the directory of the release's code",
    "CELERY_BROKER_URL": _SETTINGS,
    "CELERY_BROKER_READ_URL": _SETTINGS,
    "CELERY_BROKER_WRITE_URL": _SETTINGS,
    "CELERY_RESULT_BACKEND": _SETTINGS,
}
_OWN_PREFIX: Final = "CELERY_FLEET_"
# Characters that systemd's env_value_is_valid refuses.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# Only at the end of a name: COMPASS_URL, MAX_TOKENS and AUTH_PASSWORD_VALIDATORS are not secrets.
_SECRET = re.compile(
    r"(.*_)?(secret|secret_key|(api|access|private|encryption|signing|auth)_?key|password|passwd|passphrase|pass|pwd"
    r"|token|credentials?)(_?\d+)?|pgpassword|rediscli_auth",
    re.IGNORECASE,
)
# An empty text, a switch, a number, or the path of a file.
_NO_SECRET = re.compile(r"|true|false|yes|no|on|off|none|\d{1,4}|/\S*", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]+|/\S*")


def check_environment(model: Model) -> Iterator[Problem]:
    """Check names of variables and the parts of each URL. Only scheme, host and port are shown."""
    for variable in (*_OTHERS, URLS):
        for value, hosts in model.distinct(variable):
            for name in as_mapping(value):
                if not VARIABLE_NAME.fullmatch(name):
                    # A key may be a secret, too: `NAME:s3cret` without a space is a single key.
                    shown = "(a name that is not shown)" if variable != _OTHERS[0] else name
                    yield Problem(
                        dotted((variable, shown)),
                        "can't be the name of an environment variable",
                        "use only letters, digits and _, and no digit first; mind the space after the colon",
                        hosts=hosts,
                    )
    yield from _texts(model)
    for value, hosts in model.distinct(URLS):
        for name, parts in as_mapping(value).items():
            if VARIABLE_NAME.fullmatch(name):
                yield from with_hosts(hosts, _parts(model, name, as_mapping(parts)))
    yield from _twice(model)


def check_overruled(model: Model) -> Iterator[Problem]:
    """Refuse variables that no process would ever see."""
    urls = [((URLS,), as_mapping(value), hosts) for value, hosts in model.distinct(URLS)]
    for path, environment, hosts in [*_environments(model), *urls]:
        for name in environment:
            if name in _OVERRULED or name.startswith(_OWN_PREFIX):
                instead = _OVERRULED.get(name, f"{_OWN_PREFIX}… are the fleet's own")
                yield Problem(
                    dotted((*path, name)),
                    "has no effect: Celery Fleet sets or removes this variable itself in each process",
                    f"remove it; {instead}",
                    hosts=hosts,
                )


def check_secrets_in_the_clear(model: Model) -> Iterator[Problem]:
    """Warn about secrets in environments that every user of a host can read."""
    for path, environment, hosts in _environments(model):
        if path[0] == _OTHERS[1]:
            continue
        for name, value in environment.items():
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                continue
            if reason := _why_secret(name, str(value)):
                yield Problem(
                    dotted((*path, name)),
                    f"{reason}, and every user of the host can read it here",
                    f"put it into {_OTHERS[1]}"
                    + (f" or {URLS}" if "URL" in reason else "")
                    + ", in the environment's vault.yml",
                    hosts=hosts,
                    severity=Severity.WARNING,
                )


def _why_secret(name: str, text: str) -> str:
    """Return why a variable of an environment looks like a secret; an empty string if it does not."""
    if _has_password(text):
        return "is a URL with a password in it"
    if "PRIVATE KEY-----" in text:
        return "is a private key"
    if _SECRET.fullmatch(name) and not _NO_SECRET.fullmatch(text):
        return "looks like a secret by its name"
    return ""


def _has_password(text: str) -> bool:
    try:
        return "://" in text and bool(urlsplit(text).password)
    except ValueError:
        return False


def _texts(model: Model) -> Iterator[Problem]:
    """Check names in the environments of single processes, and in all environments values that systemd would drop."""
    for path, environment, hosts in _environments(model):
        for name, text in environment.items():
            if path[0] not in _OTHERS and not VARIABLE_NAME.fullmatch(name):
                yield Problem(
                    dotted((*path, safe_key(name))),
                    "can't be the name of an environment variable",
                    "use only letters, digits and _, and no digit first; mind the space after the colon",
                    hosts=hosts,
                )
            elif isinstance(text, (list, Mapping)):
                yield Problem(
                    dotted((*path, name)),
                    f"is {kind_of(text)}, but must be a string",
                    "write one string, such as a,b or JSON in quotes, as the application reads it",
                    hosts=hosts,
                )
            elif isinstance(text, str) and _CONTROL.search(text):
                yield Problem(
                    dotted((*path, name)),
                    "has a control character, so systemd would ignore the whole variable",
                    "encode it, for example as base64; tabs and line ends may stay",
                    hosts=hosts,
                )


def _environments(
    model: Model,
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object], tuple[str, ...]]]:
    for variable in _OTHERS:
        for value, hosts in model.distinct(variable):
            yield (variable,), as_mapping(value), hosts
    for path, options, hosts in each_process(model):
        yield (*path, "environment"), as_mapping(options.get("environment")), hosts


def _parts(model: Model, name: str, parts: Mapping[str, object]) -> Iterator[Problem]:
    def problem(key: str, message: str, remedy: str) -> Problem:
        path = (URLS, name, key)
        return Problem(dotted(path), message, remedy, value=model.show(path, parts[key]))

    scheme, host, port = as_text(parts.get("scheme")), parts.get("host"), parts.get("port")
    if "scheme" in parts and (scheme is None or not _SCHEME.fullmatch(scheme)):
        yield problem(
            "scheme",
            "is not the scheme of a URL",
            "write it without ://, as in postgresql or rediss",
        )
    if isinstance(host, str) and not _is_host(host):
        yield problem(
            "host",
            "is not a host",
            "write only the name or address; port, user, path and query have their own keys",
        )
    number = as_number(port)
    if number is not None and not is_port(number):
        yield problem("port", "is not a TCP port", "write a whole number from 1 to 65535")
    for key, value in as_mapping(parts.get("query")).items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, (str, int, float)) for item in items):
            yield Problem(
                dotted((URLS, name, "query", key)),
                "can't be the value of a URL's parameter",
                "write a string, a number, a boolean or a list of these",
            )


def _is_host(text: str) -> bool:
    if not _HOST.fullmatch(text):
        return False
    if ":" not in text or text.startswith("/"):
        return True
    # Any other text with a colon is a name with a port, which would become the name of a host that does not exist.
    return is_address(text.partition("%")[0])


def _twice(model: Model) -> Iterator[Problem]:
    """Refuse a name in several variables, so that readers need not guess which one wins."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for host in model.hosts:
        for one, other in itertools.combinations((URLS, *_OTHERS), 2):
            there = as_mapping(model.value(host, other))
            for name in as_mapping(model.value(host, one)):
                if name in there:
                    found.setdefault((one, other, name), []).append(host)
    for (one, other, name), hosts in found.items():
        yield Problem(
            dotted((one, name)),
            f"is also in {other}",
            f"remove it here or in {other}",
            hosts=tuple(hosts),
        )
