"""Checks the firewall, which only accepts addresses because names can't be resolved before the network is up."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from ..model.inventory import UNKNOWN, Model, Problem, Severity, as_mapping, dotted
from ..model.report import with_hosts
from .network import is_address, is_loopback, listen_address

_ADDRESS: Final = "firewall_address"
_CLIENTS: Final = "firewall_redis_clients"
_WEB: Final = "celery_producer_web_listen"


def check_firewall(model: Model) -> Iterator[Problem]:
    """Check the addresses of hosts and further clients that the firewall must admit, and find unprotected ports."""
    needed: dict[str, None] = {}
    for host in model.members("fleet"):
        if model.value(host, "firewall_enabled") is True and _closes(model, host):
            needed |= dict.fromkeys(other for other in model.members("fleet") if other != host)
    for value, hosts in model.distinct(_ADDRESS, tuple(needed)):
        yield from with_hosts(hosts, _addresses(model, value))
    for value, hosts in model.distinct(_CLIENTS):
        for index, item in enumerate(value if isinstance(value, list) else []):
            yield from with_hosts(hosts, check_network(model, (_CLIENTS, index), item))
    for host in model.members("celery_producers"):
        if _web_is_open(model, host) and model.value(host, "firewall_enabled") is False:
            yield Problem(
                _WEB,
                "is open to everyone who can reach the host, without nginx's TLS and passwords",
                "set firewall_enabled, or listen on 127.0.0.1; if the site has its own firewall, do nothing",
                value=model.show((_WEB,), model.value(host, _WEB)),
                hosts=(host,),
                severity=Severity.WARNING,
            )


def _web_is_open(model: Model, host: str) -> bool:
    """Return whether the host has a web process that listens for other hosts."""
    command = as_mapping(model.value(host, "celery_producer_web")).get("command")
    found = listen_address(model.value(host, _WEB))
    return bool(command) and found is not None and not is_loopback(found[0])


def _closes(model: Model, host: str) -> bool:
    """Return whether the host has a port that its firewall only opens to the fleet."""
    return host in model.members("redis") or (
        host in model.members("celery_producers") and _web_is_open(model, host)
    )


def _addresses(model: Model, value: object) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield from check_network(model, (_ADDRESS,), value)
    elif not value:
        yield _problem(model, (_ADDRESS,), value, "is empty")
    else:
        for index, item in enumerate(value):
            yield from check_network(model, (_ADDRESS, index), item)


def check_network(model: Model, path: tuple[object, ...], value: object) -> Iterator[Problem]:
    """Check one address or network that the firewall is to let in."""
    # The specs accept a number as a string; another check reports other types.
    typed = path[0] != _ADDRESS and (value is None or isinstance(value, (Mapping, list, bool)))
    if value is UNKNOWN or typed:
        return
    text = value if isinstance(value, str) else ""
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        yield _problem(
            model,
            path,
            value,
            "has an impossible mask: it may be at most /32 for IPv4, /128 for IPv6"
            if is_address(text.partition("/")[0])
            else "is not an address; a name would have to be resolved at each boot, before there is a network",
        )
        return
    address = ipaddress.ip_address(text.partition("/")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        yield Problem(
            dotted(path),
            "is an IPv4 address in IPv6 notation, which no packet has",
            f"write {address.ipv4_mapped}",
            value=model.show(path, value),
        )
        return
    if "%" in text or address.is_link_local:
        yield _problem(model, path, value, "is an address that is only valid on one link")
    elif found.prefixlen == 0:
        yield _problem(model, path, value, "would let everyone in")
    elif address != found.network_address:
        yield Problem(
            dotted(path),
            "is a single address with the mask of a network",
            f"write {found} for the whole network, or {address} for only this address",
            value=model.show(path, value),
        )
    elif address.is_loopback or address.is_unspecified or address.is_multicast:
        message = "is not an address that another host could connect from"
        yield _problem(model, path, value, message)


def _problem(model: Model, path: tuple[object, ...], value: object, message: str) -> Problem:
    wanted = (
        "from which this host's connections come, as the other hosts see it (firewall_address)"
        if path[0] == _ADDRESS
        else "from which the client's connections come"
    )
    return Problem(
        dotted(path),
        message,
        f"write the address {wanted}, such as 10.1.0.7, or a network such as 10.1.0.0/24",
        value=model.show(path, value),
    )
