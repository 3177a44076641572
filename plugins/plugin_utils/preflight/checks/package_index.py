"""Checks where pip gets packages: `celery_app_package_index`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.groups import FLEET
from ..model.inventory import (
    UNKNOWN,
    Model,
    Problem,
    Severity,
    as_list,
    as_mapping,
    as_text,
    dotted,
)
from ..model.report import with_hosts
from .network import split_url
from .values import CERTIFICATE, check_pem

NAME: Final = "celery_app_package_index"
_LIKE: Final = "https://packages.example.org/simple"


def check_package_index(model: Model) -> Iterator[Problem]:
    """Check URLs, logins and certificates. Whether the index answers is seen when a release is built."""
    for value, hosts in model.distinct(NAME, model.members(FLEET)):
        yield from with_hosts(hosts, _index(model, as_mapping(value)))


def _index(model: Model, index: Mapping[str, object]) -> Iterator[Problem]:
    known: set[str] = set()
    unknown = False
    for path, value in _urls(index):
        text = as_text(value)
        if text is None:
            unknown |= value is UNKNOWN
            continue
        parts = split_url(text, ("http", "https"))
        if parts is None:
            yield Problem(
                path,
                "is not the URL of an HTTP server",
                f"write it as in {_LIKE if 'proxy' not in path else 'http://proxy.example.org:3128'}",
                value=model.show((NAME, path.rpartition(".")[2]), text),
            )
            continue
        known.add(parts.hostname or "")
        if parts.username or parts.password:
            yield Problem(
                path,
                "contains a login, which every user of a host could see",
                f"remove it from the URL, and give host, user and password in {NAME}.logins",
            )
        elif parts.scheme == "http" and "proxy" not in path:
            yield Problem(
                path,
                "is not encrypted: anyone on the network between can replace packages, which then run as the "
                "application's user",
                f"use https, with the certificate of the index's authority in {NAME}.ca",
                value=model.show((NAME, path.rpartition(".")[2]), text),
                severity=Severity.WARNING,
            )
    yield from _logins(index, set() if unknown else known)
    yield from _certificates(index)


def _urls(index: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key in ("url", "proxy"):
        if index.get(key) not in (None, ""):
            yield dotted((NAME, key)), index[key]
    for number, value in enumerate(as_list(index.get("extra_urls"))):
        yield f"{NAME}.extra_urls[{number}]", value


def _logins(index: Mapping[str, object], known: set[str]) -> Iterator[Problem]:
    """Check that each login is for a host that is asked; `known` is empty if that can't be told."""
    seen = set()
    for number, item in enumerate(as_list(index.get("logins"))):
        path = f"{NAME}.logins[{number}]"
        login = as_mapping(item)
        host = as_text(login.get("host"))
        if host is None:
            continue
        if known and host not in known:
            yield Problem(
                f"{path}.host",
                "is the host of no URL here, so the login would never be used",
                f"write one of {', '.join(sorted(known))}",
                value=host,
            )
        if host in seen:
            yield Problem(f"{path}.host", "has two logins", "keep one of them", value=host)
        seen.add(host)
        for key in ("user", "password"):
            text = as_text(login.get(key))
            if text is not None and "\n" in text:
                yield Problem(
                    f"{path}.{key}", "has more than one line", "write it as the service gives it"
                )


def _certificates(index: Mapping[str, object]) -> Iterator[Problem]:
    for key, parts in (
        ("ca", (CERTIFICATE,)),
        ("client_certificate", (CERTIFICATE, "PRIVATE KEY-----")),
    ):
        text = as_text(index.get(key)) or ""
        if text:
            yield from check_pem((NAME, key), text, parts)
        if "ENCRYPTED" in text:
            yield Problem(
                dotted((NAME, key)),
                "has an encrypted key, for which pip has no passphrase",
                "give the key without a passphrase, in a file that Ansible Vault encrypts",
            )
