"""Checks for Celery settings that name another Redis than the fleet's, or weaken the check of its certificate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ..model.inventory import Model, Problem, as_mapping, dotted
from ..model.report import with_hosts

_SETTINGS: Final = "celery_app_settings"
# In each spelling that Celery reads: the current one, Celery 3's, and the one with Django's prefix.
_BROKER: Final = re.compile(r"(celery_)?broker(_read|_write|_transport)?(_url)?", re.IGNORECASE)
_RESULTS: Final = re.compile(r"(celery_)?(result_)?backend", re.IGNORECASE)
_TLS: Final = re.compile(r"(celery_)?(broker|redis_backend)_use_ssl", re.IGNORECASE)
# In the scheme of a URL, or in the full name of a class; the second is of results as messages.
_REDIS: Final = re.compile(r"redis|sentinel", re.IGNORECASE)
_RPC: Final = re.compile(r"^(rpc|amqp|celery\.backends\.rpc(\.[^:]*)?)(:|$)", re.IGNORECASE)
_TRANSPORTS: Final = ("broker_transport_options", "result_backend_transport_options")
_SENTINELS: Final = "sentinel_kwargs"
_CHECKED: Final = re.compile(r"(cert_)?required", re.IGNORECASE)


def check_connections(model: Model) -> Iterator[Problem]:
    """Refuse another broker, another Redis for results, TLS that verifies less, and other options for Sentinels."""
    for value, hosts in model.distinct(_SETTINGS):
        for name, item in as_mapping(value).items():
            yield from with_hosts(hosts, refusals(model, name, item))


def refusals(model: Model, name: str, item: object) -> Iterator[Problem]:
    """Yield the problems of one setting, without hosts."""
    path: tuple[object, ...] = (_SETTINGS, name)
    if _BROKER.fullmatch(name):
        yield Problem(
            dotted(path),
            "is an address of the broker, which Celery Fleet sets for each process",
            "remove it; for a Redis that the fleet does not run, set celery_app_broker_url",
            value=model.show(path, item),
        )
    elif _RESULTS.fullmatch(name) and _is_kind(_REDIS, item):
        yield Problem(
            dotted(path),
            "is a different Redis from the fleet's result store",
            "remove it; processes get the address from celery_app_results_host and celery_app_results_port. A "
            "backend of another kind, such as django-db, is allowed here",
            value=model.show(path, item),
        )
    elif _RESULTS.fullmatch(name) and _is_kind(_RPC, item):
        yield Problem(
            dotted(path),
            "sends each result to a queue of the process that waits for it, and processes of the fleet may only use "
            "the queues of the inventory",
            "remove it; results go to the fleet's result store. A database, such as django-db, is allowed here",
            value=model.show(path, item),
        )
    elif _TLS.fullmatch(name):
        for weak, shown in _weaker(path, item):
            yield Problem(
                dotted(weak),
                "turns off a check of Redis's certificate, so a client could give its password to another server",
                "remove it; with pki_source: external the fleet trusts your own authority",
                value=model.show(weak, shown),
            )
    elif name in _TRANSPORTS and (not isinstance(item, Mapping) or _SENTINELS in item):
        # Options are merged one by one, so either value replaces all that the fleet sets for Sentinels.
        replaced = (*path, _SENTINELS) if isinstance(item, Mapping) else path
        yield Problem(
            dotted(replaced),
            "replaces the options with which clients log in to Sentinels and check their certificates",
            "remove it; the fleet sets the login, TLS and time limits of these connections itself",
        )


def _is_kind(kind: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and kind.search(value.partition("://")[0]) is not None


def _weaker(path: tuple[object, ...], value: object) -> Iterator[tuple[tuple[object, ...], object]]:
    """Yield path and value of each option that makes a client verify less than the fleet's own options do."""
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
