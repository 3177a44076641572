"""Celery settings by which a process would leave the fleet's Redis, or check its certificate less."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Model,
    Problem,
    as_mapping,
    dotted,
)

_SETTINGS: Final = "celery_app_settings"
# In each spelling that Celery reads: of today, of Celery 3, with Django's prefix.
_BROKER: Final = re.compile(r"(celery_)?broker(_read|_write|_transport)?(_url)?", re.IGNORECASE)
_RESULTS: Final = re.compile(r"(celery_)?(result_)?backend", re.IGNORECASE)
_TLS: Final = re.compile(r"(celery_)?(broker|redis_backend)_use_ssl", re.IGNORECASE)
# In the scheme of an address, or in the whole name of a class.
_REDIS: Final = re.compile(r"redis|sentinel", re.IGNORECASE)
_CHECKED: Final = re.compile(r"(cert_)?required", re.IGNORECASE)


def check_connections(model: Model) -> Iterator[Problem]:
    """Refuse another broker, another Redis for results, and TLS that verifies less."""
    for value, hosts in model.distinct(_SETTINGS):
        for name, item in as_mapping(value).items():
            yield from (replace(problem, hosts=hosts) for problem in refusals(model, name, item))


def refusals(model: Model, name: str, item: object) -> Iterator[Problem]:
    """Problems of one setting, without hosts."""
    path: tuple[object, ...] = (_SETTINGS, name)
    if _BROKER.fullmatch(name):
        yield Problem(
            dotted(path),
            "is an address of the broker, which has to be the fleet's own: the users' rights, the firewall and "
            "the lease of workers are there",
            "remove it; processes get the address from celery_app_broker_host and celery_app_broker_port. An "
            "external broker is not supported",
            value=model.show(path, item),
        )
    elif _RESULTS.fullmatch(name) and _is_redis(item):
        yield Problem(
            dotted(path),
            "is another Redis than the fleet's result store",
            "remove it; processes get the address from celery_app_results_host and celery_app_results_port. A "
            "backend of another kind, such as django-db, may stand here",
            value=model.show(path, item),
        )
    elif _TLS.fullmatch(name):
        for weak, shown in _weaker(path, item):
            yield Problem(
                dotted(weak),
                "turns off a check of Redis's certificate, by which a client knows whom it gives its password",
                "remove it; with pki_source: external the fleet trusts your own authority",
                value=model.show(weak, shown),
            )


def _is_redis(value: object) -> bool:
    return isinstance(value, str) and _REDIS.search(value.partition("://")[0]) is not None


def _weaker(path: tuple[object, ...], value: object) -> Iterator[tuple[tuple[object, ...], object]]:
    """Path and value of each option by which a client verifies less than by the fleet's own."""
    if not isinstance(value, Mapping):
        # It replaces all of the fleet's options.
        yield path, value
        return
    options = as_mapping(value)
    required = options.get("ssl_cert_reqs", "required")
    # 2 is ssl.CERT_REQUIRED.
    if required != 2 and not (isinstance(required, str) and _CHECKED.fullmatch(required)):
        yield (*path, "ssl_cert_reqs"), required
    if options.get("ssl_check_hostname", True) is not True:
        yield (*path, "ssl_check_hostname"), options["ssl_check_hostname"]
