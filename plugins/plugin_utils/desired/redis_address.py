"""Computes the address of a Redis instance as Celery's settings have it: one server, or a primary that may move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from .facts import Address, Facts

# Seconds for connecting to a Sentinel, and for its answer. redis-py then asks the next one.
SENTINEL_TIMEOUT = 1


class RedisAddress(NamedTuple):
    """An address with everything that belongs to it."""

    # `rediss://…`, or the Sentinels with semicolons between them, each with the login for Redis.
    url: str
    # TLS options for Redis; False without TLS.
    tls: dict[str, Any] | Literal[False]
    # Transport options; empty for one server.
    options: dict[str, Any]


def replicated(name: str, address: Address, hosts: Sequence[str], port: int | str) -> Address:
    """Return an instance's address, with its Sentinels if several hosts run it.

    Args:
        name: The instance's name, which Sentinels call their primary.
        address: Host, port and, for a server that the fleet does not run, URL.
        hosts: The fleet's Redis hosts.
        port: The Sentinels' port on each of these hosts.
    """
    if address.get("url") or len(hosts) < 2:
        return address
    # Another order of the group must restart nothing.
    sentinels = [{"host": host, "port": int(port)} for host in sorted(hosts)]
    return {**address, "name": name, "sentinels": sentinels}


def redis_address(user: str, password: str, address: Address, facts: Facts) -> RedisAddress:
    """Return the address of an instance for one of its users.

    Args:
        user: The user in Redis, and in the Sentinels, which only let it ask for the primary.
        password: That user's password.
        address: The instance. The inventory gives the whole URL of a server that the fleet does not run.
        facts: The application's facts.
    """
    if address.get("url"):
        url = str(address["url"])
        return RedisAddress(url, _tls(facts) if url.startswith("rediss://") else False, {})
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    tls = _tls(facts)
    sentinels = address.get("sentinels")
    if not sentinels:
        return RedisAddress(f"rediss://{login}@{_place(address)}/0", tls, {})
    options: dict[str, Any] = {
        "master_name": address["name"],
        "sentinel_kwargs": {
            "username": user,
            "password": password,
            "ssl": True,
            # They never ask for a certificate.
            **_verified(facts),
            "socket_timeout": SENTINEL_TIMEOUT,
            "socket_connect_timeout": SENTINEL_TIMEOUT,
            # Otherwise redis-py tries each of them up to ten times, with pauses.
            "retry": None,
        },
    }
    if address.get("wait_replicas"):
        options["wait_replicas"] = int(address["wait_replicas"])
    urls = [f"sentinel://{login}@{_place(one)}/0" for one in sentinels]
    return RedisAddress(";".join(urls), tls, options)


def _place(address: Mapping[str, Any]) -> str:
    host = str(address["host"])
    return f"{f'[{host}]' if ':' in host else host}:{int(address['port'])}"


def _tls(facts: Facts) -> dict[str, Any]:
    shown = {}
    if client := facts["client"]:
        shown = {"ssl_certfile": client["certificate"], "ssl_keyfile": client["key"]}
    return {**_verified(facts), **shown}


def _verified(facts: Facts) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": facts["redis_ca"],
        "ssl_check_hostname": True,
    }
