"""Computes the application's own nftables table: who may reach Redis and a web process that listens on TCP.

It drops packets to these ports from other sources and ignores everything else. Another table can't let through what
one table drops, and may still drop what it lets through. So this table works beside any rules that the host has.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.names import firewall_table

from .facts import Facts

# What the plan says of a table that no run has confirmed.
_UNCONFIRMED = "the check of a table that an interrupted run has not confirmed"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def listen_address(text: str | None) -> tuple[str, int] | None:
    """Return address and port of `ADDRESS:PORT` or `[ADDRESS]:PORT`, as systemd accepts them; None for an empty text.

    Raises:
        ValueError: The text has another form.
    """
    if not text:
        return None
    address, _, port = text.rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    try:
        found = ipaddress.ip_address(address[1:-1] if bracketed else address)
    except ValueError:
        number = 0
    # systemd does not accept an address with a link's name.
    if "%" in address or not 1 <= number <= 65535 or bracketed != (found.version == 6):
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    return str(found), number


def web_port(text: str | None) -> int:
    """Return the port of a web process that listens on TCP; 0 if it has a Unix socket."""
    found = listen_address(text)
    return found[1] if found else 0


def is_local(text: str | None) -> bool:
    """Return whether only the host itself can reach the web process, with or without a firewall."""
    found = listen_address(text)
    return found is None or ipaddress.ip_address(found[0]).is_loopback


def upstream(app: str, text: str | None) -> str:
    """Return where nginx passes requests to: the path of a socket, or `ADDRESS:PORT`."""
    found = listen_address(text)
    if found is None:
        return f"/run/{app}-web.sock"
    address = ipaddress.ip_address(found[0])
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"[{address}]:{found[1]}" if address.version == 6 else f"{address}:{found[1]}"


def addresses(variables: Mapping[str, Any], host: str) -> list[str]:
    """Return `firewall_address` of a host, or its default, as a list."""
    given = variables.get("firewall_address") or variables.get("ansible_host") or host
    return [given] if isinstance(given, str) else [str(item) for item in given]


def host_addresses(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str]
) -> dict[str, list[str]]:
    """Return the addresses of hosts by their names."""
    return {host: addresses(hostvars[host], host) for host in hosts}


def _distinct(given: Iterable[str]) -> list[Network]:
    """Return networks in order, without those inside another one: a set of nftables can't contain two that overlap."""
    networks = sorted(
        {ipaddress.ip_network(text) for text in given},
        key=lambda network: (network.version, int(network.network_address), network.prefixlen),
    )
    kept: list[Network] = []
    for network in networks:
        # A network that contains it comes just before it.
        if kept and kept[-1].version == network.version and network.network_address in kept[-1]:
            continue
        kept.append(network)
    return kept


def _text(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _chain(name: str, networks: Sequence[Network]) -> list[str]:
    lines = [f"\tchain {name} {{", '\t\tiifname "lo" return']
    for word, version in (("ip", 4), ("ip6", 6)):
        named = [_text(network) for network in networks if network.version == version]
        if named:
            lines.append(f"\t\t{word} saddr {{ {', '.join(named)} }} return")
    return [*lines, "\t\tcounter drop", "\t}"]


def ruleset(
    app: str, *, redis: Sequence[int], web: Sequence[int], fleet: Sequence[str], more: Sequence[str]
) -> str:
    """Return the table as text for nft, which replaces the previous table in one step.

    Args:
        app: Name of the application.
        redis: Redis's ports on this host.
        web: The web process's port, if other hosts could reach it.
        fleet: Addresses and networks of the other hosts, which may reach both.
        more: Other addresses and networks, which may reach Redis.
    """
    name = firewall_table(app)
    closed = [
        (kind, ports, networks)
        for kind, ports, networks in (
            ("redis", redis, _distinct([*fleet, *more])),
            ("web", web, _distinct(fleet)),
        )
        if ports
    ]
    lines = [
        "# Written by Celery Fleet. Put your own rules into your own tables.",
        "# The first two lines work whether or not the table exists; nft applies the whole file at once.",
        f"table inet {name}",
        f"delete table inet {name}",
        f"table inet {name} {{",
        "\tchain input {",
        "\t\ttype filter hook input priority filter - 10; policy accept;",
        # Each packet, not only the first of a connection: a client that is no longer let in is cut off at once.
        *(
            f"\t\ttcp dport {{ {', '.join(str(port) for port in sorted(set(ports)))} }} jump {kind}"
            for kind, ports, _ in closed
        ),
        "\t}",
        *(line for kind, _, networks in closed for line in _chain(kind, networks)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def state(
    facts: Facts,
    *,
    hostvars: Mapping[str, Mapping[str, Any]],
    enabled: bool,
    redis: Sequence[int | str],
    web: str,
    clients: Sequence[str],
    packages: Sequence[str],
    unconfirmed: bool = False,
) -> dict[str, Any]:
    """Return the desired state of a host's table; if there is nothing to protect, the state that removes it.

    Args:
        facts: The application's facts. The host itself needs no rule: its connections to any of its own addresses use
            the loopback.
        hostvars: Ansible's `hostvars`, from which the hosts' addresses are read.
        enabled: Whether the host has a table at all.
        redis: Redis's ports on the host.
        web: `celery_producer_web_listen` if the host has a web process, otherwise empty.
        clients: Other networks that may reach Redis.
        packages: Debian packages that the host lacks.
        unconfirmed: Whether a run ended, or the host rebooted, before the table was confirmed. Then the plan has the
            table even if it is in place. Otherwise a pending rollback would win, or no run would try the table.
    """
    app, directory = facts["name"], facts["directory"]
    units, path = "/etc/systemd/system", f"{directory}/firewall.nft"
    # scripts/firewall.py keeps the previous table there until the new one is confirmed.
    before = f"{path}.before"
    service, watch = f"{app}-firewall.service", f"{app}-firewall-watch"
    # An earlier version had a watch on hosts. It is removed first, because it would bring the table back.
    earlier = [f"{watch}.timer", f"{watch}.service"]
    owned = {
        "units": [*earlier, service],
        "files": [path, *(f"{units}/{name}" for name in (*earlier, service))],
    }
    closed = [] if is_local(web) else [web_port(web)]
    if not enabled or not (redis or closed):
        return {"owned": {**owned, "files": [*owned["files"], before]}}
    others = [
        address
        for name in facts["groups"]["fleet"]
        if name != facts["host"]
        for address in addresses(hostvars[name], name)
    ]
    text = ruleset(app, redis=[int(port) for port in redis], web=closed, fleet=others, more=clients)
    return {
        "packages": list(packages),
        "commands": [{"subject": service, "text": _UNCONFIRMED}] if unconfirmed else [],
        "directories": [{"path": "/etc/celery-fleet"}, {"path": directory}],
        "files": [
            {"dest": path, "content": text},
            {"dest": f"{units}/{service}", "src": "systemd/firewall.service.j2"},
        ],
        "checks": [{"command": ["nft", "--check", "--file", path], "files": [path]}],
        "units": [
            {"name": service, "on_change": "reload", "files": [path], "timeout": 30},
        ],
        # systemd creates it for links to enabled units.
        "data": [{"path": f"{units}/nftables.service.wants", "whole": False}, {"path": before}],
        "owned": owned,
    }


def refusal(
    silent: Mapping[str, Sequence[Mapping[str, Any]]], allowed: Mapping[str, Sequence[str]]
) -> str:
    """Return why a table is rolled back, with the remedy; an empty string if all hosts get through it.

    Args:
        silent: For each host that does not get through, the ports that did not answer, as the script reports them.
        allowed: Addresses of each host in the inventory.
    """
    lines = [
        f"  {host} gets no answer from {one['host']}:{one['port']}. It comes from {one['source']}; "
        f"firewall_address of {host} is {', '.join(allowed[host])}."
        for host, found in silent.items()
        for one in found
    ]
    if not lines:
        return ""
    return "\n".join(
        [
            "The firewall's new table would cut hosts off from Redis, so the previous one comes back:",
            *lines,
            "Set firewall_address of the host to the address that it comes from (a list if there are several), or add",
            "that to firewall_redis_clients; then run again. If the address is right, look for another firewall.",
        ]
    )
