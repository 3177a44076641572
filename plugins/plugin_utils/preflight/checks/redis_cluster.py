"""Refuses Redis Cluster, which is often proposed for high availability: Celery has no transport for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..model.inventory import Model, Problem, as_mapping, dotted
from .environment import URLS

# kombu talks to one server, or to the one that Sentinel names. It treats a cluster's reply "MOVED" as an error, and the
# keys of one command would be in different slots. See kombu.transport.TRANSPORT_ALIASES and BACKEND_ALIASES of
# celery.app.backends.
NO_CLUSTER: Final = "Redis Cluster has no Celery transport"
INSTEAD: Final = (
    "one instance with an append-only file (redis_broker_appendonly) keeps its queues over a restart, and several "
    "applications each have their own instances"
)
_VARIABLES: Final = ("celery_app_settings", "celery_app_env", "celery_app_secret_env")
# The settings and variables that Celery reads an address from, in each of their spellings.
_ADDRESSES: Final = re.compile(
    r"(celery_)?(broker(_read|_write)?_url|result_backend|broker|backend)", re.IGNORECASE
)
_SCHEME: Final = re.compile(r"(redis|rediss)[+_-]?clusters?|clusters?[+_-]?rediss?", re.IGNORECASE)
_OPTIONS: Final = ("broker_transport_options", "result_backend_transport_options")


def check_cluster(model: Model) -> Iterator[Problem]:
    """Refuse addresses of a cluster in the application's settings and environment, and options that ask for one."""
    for variable in _VARIABLES:
        for value, hosts in model.distinct(variable):
            for name, item in as_mapping(value).items():
                if isinstance(item, str) and _ADDRESSES.fullmatch(name) and _asks(item):
                    yield _problem((variable, name), hosts)
    for value, hosts in model.distinct("celery_app_settings"):
        for name in _OPTIONS:
            for key in as_mapping(as_mapping(value).get(name)):
                if "cluster" in key.lower():
                    yield _problem(("celery_app_settings", name, key), hosts)
    for value, hosts in model.distinct(URLS):
        for name, parts in as_mapping(value).items():
            scheme = as_mapping(parts).get("scheme")
            # An application may use its own cluster for other purposes, such as a cache.
            if _ADDRESSES.fullmatch(name) and isinstance(scheme, str) and _SCHEME.fullmatch(scheme):
                yield _problem((URLS, name, "scheme"), hosts)


def _asks(text: str) -> bool:
    scheme, found, _ = text.partition("://")
    # A cluster's address may list several servers with commas, so it may not be a valid URL.
    return bool(found) and _SCHEME.fullmatch(scheme) is not None


def _problem(path: tuple[object, ...], hosts: tuple[str, ...]) -> Problem:
    # The address may contain a login, so it is not shown.
    return Problem(
        dotted(path),
        f"asks for a cluster: {NO_CLUSTER} (kombu speaks to one server)",
        f"remove it: the fleet has its own broker and result store; {INSTEAD}. "
        "With three hosts in the group redis, a replica takes the place of a primary that fails",
        hosts=hosts,
    )
