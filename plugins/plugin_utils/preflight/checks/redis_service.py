"""Checks the addresses of a Redis that the fleet does not run: `celery_app_broker_url` and `celery_app_results_url`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from ...desired.groups import FLEET
from ..model.inventory import UNKNOWN, Model, Problem, Severity, as_text
from ..model.report import with_hosts
from .network import is_loopback, split_url
from .secrets import is_placeholder
from .values import CERTIFICATE, check_pem

BROKER: Final = "celery_app_broker_url"
RESULTS: Final = "celery_app_results_url"
CA: Final = "celery_app_redis_ca"
CACHE: Final = "celery_app_cache"
CLIENTS: Final = "celery_app_clients"
PKI_MODE: Final = "pki_mode"
BACKUP: Final = "redis_backup"
# Variables that the URLs replace.
_PARTS: Final = tuple(
    f"celery_app_{kind}_{part}" for kind in ("broker", "results") for part in ("host", "port")
)
LEASE_HOST: Final = "celery_app_lease_host"
_LIKE: Final = "write it as in rediss://user:password@redis.example.org:6379/0"


def is_used(model: Model) -> bool:
    """Return whether the inventory names a Redis that the fleet does not run."""
    return any(BROKER in given for given in model.given.values())


def check_redis_service(model: Model) -> Iterator[Problem]:
    """Check URLs and authorities, and that the inventory names a host for the lease."""
    for variable in (BROKER, RESULTS):
        values = model.distinct_given(variable)
        if len(values) > 1:
            yield Problem(
                variable, "differs between hosts", "set it once, for all hosts of the fleet"
            )
        for value, hosts in values:
            text = as_text(value)
            if text is not None:
                yield from with_hosts(hosts, _url(variable, text))
    yield from _together(model)
    for value, hosts in model.distinct_given(CA):
        if value and value is not UNKNOWN:
            yield from with_hosts(hosts, check_pem((CA,), str(value), (CERTIFICATE,)))


def _together(model: Model) -> Iterator[Problem]:
    redis = model.members("redis")
    if not is_used(model):
        for variable in (RESULTS, CA):
            if variable in model.given_names:
                yield Problem(
                    variable,
                    f"is set, but {BROKER} is not",
                    "set both: the fleet runs either both instances or none",
                    hosts=model.given_names[variable],
                )
        return
    if redis:
        yield Problem(
            BROKER,
            "is set, but the group redis has hosts: the fleet runs either both instances or none",
            "leave the group redis empty, or remove the variable",
            hosts=tuple(redis),
        )
    for variable in _PARTS:
        if variable in model.given_names:
            yield Problem(
                variable,
                f"is set, but {BROKER} is too, which also has the address",
                f"remove it, or remove {BROKER}",
                hosts=model.given_names[variable],
            )
    has_its_own = "remove it; your own server has users and databases for that"
    for variable, remedy in (
        (CACHE, has_its_own),
        (CLIENTS, has_its_own),
        (BACKUP, "remove it; back up your own server with its own means"),
        (PKI_MODE, "remove it; clients show no certificate to other servers"),
    ):
        for value, on in model.distinct_given(variable):
            if value and value != "server":
                yield Problem(
                    variable,
                    f"needs a Redis of the fleet, but {BROKER} names another one",
                    remedy,
                    hosts=on,
                )
    hosts = [
        text
        for value, _ in model.distinct_given(LEASE_HOST)
        if (text := as_text(value)) is not None
    ]
    members = model.members(FLEET)
    # With hosts in the group redis, the first of them has it.
    if LEASE_HOST not in model.given_names and not redis:
        yield Problem(
            LEASE_HOST,
            "is not set. The group redis has no host, so the inventory must name one for the lease of a run and "
            "the marks of release commands",
            f"write the name of a host that you will keep, such as {next(iter(members), 'the one of beat')}",
        )
    for name in dict.fromkeys(hosts):
        if name not in members:
            yield Problem(
                LEASE_HOST, f"is not a host of {FLEET}", "write the name of one", value=name
            )


def _url(variable: str, text: str) -> Iterator[Problem]:
    """Check one address, which is never shown, because it may contain a password."""
    parts = split_url(text, ("redis", "rediss"))
    usual = parts and re.fullmatch(r"/?[0-9]*", parts.path) and "," not in text
    if parts is None or not usual:
        yield Problem(variable, "is not the URL of a Redis server", _LIKE)
        return
    if parts.query or parts.fragment:
        yield Problem(
            variable,
            "has options, which would override the fleet's own, such as the check of the certificate",
            "remove what begins with ? or #; options of Celery belong to celery_app_settings",
        )
    if not parts.password:
        yield Problem(
            variable,
            "has no password: everyone who reaches the server can run code on the workers",
            f"give the server a user with a password, and {_LIKE}",
            severity=Severity.WARNING,
        )
    elif is_placeholder(unquote(parts.password)):
        yield Problem(
            variable,
            "has a placeholder as its password",
            "put the real URL into the environment's vault.yml",
        )
    if parts.scheme == "redis" and not is_loopback(parts.hostname or ""):
        yield Problem(
            variable,
            "is not encrypted: anyone on the network between can read the password and tasks, and add tasks",
            "use rediss:// if the service offers TLS",
            severity=Severity.WARNING,
        )
