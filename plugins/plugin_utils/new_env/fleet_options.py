"""Reads the options about hosts: their names, their groups, their addresses, and whether they get a firewall.

Each function reads one option and adds the mistakes in it to the answers.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from ..preflight.checks import network
from .answers import Answers
from .environment import BEAT, FLOWER, GROUPS, PRODUCERS, REDIS, Environment, default_members
from .options import BY_NAME
from .spelling import HOST, TAKEN, near

_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_OFF: Final = "off"
_OPTIONAL: Final = (BEAT, PRODUCERS, FLOWER)


def read_hosts(answers: Answers) -> tuple[str, ...]:
    """Return the hosts: HOSTS, or all hosts that the options of groups name."""
    options = ("HOSTS",) if "HOSTS" in answers.given else tuple(GROUPS.values())
    found: dict[str, None] = {}
    for option in options:
        if option != "HOSTS" and answers.given.get(option) == _OFF:
            continue
        found |= dict.fromkeys(answers.items(option))
    for host in found:
        if not _is_name_or_address(host):
            answers.wrong(
                "HOSTS",
                "can't be a host's name, which others have to resolve and which is part of node names and certificates",
                "use only a-z, 0-9, dots and dashes, with commas between hosts; give its address in ADDRESSES",
                host,
            )
        elif host in TAKEN:
            answers.wrong(
                "HOSTS",
                "is the name of a group, or Ansible's own",
                f"call it, for example, {host}1",
                host,
            )
    if "HOSTS" in answers.given and not found and answers.given["HOSTS"]:
        answers.wrong("HOSTS", "names no host", f"write it as in {BY_NAME['HOSTS'].typed}")
    return tuple(found)


def read_members(answers: Answers, hosts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the groups that have hosts, each with its hosts."""
    redis = answers.items("REDIS")
    # If Redis has several hosts, all but the first one do nothing else by default.
    others = [host for host in hosts if host not in redis]
    default = default_members([redis[0], *others] if len(redis) > 1 else hosts) if hosts else {}
    members: dict[str, tuple[str, ...]] = {}
    for group, option in GROUPS.items():
        if option not in answers.given:
            # Without HOSTS, each group's option names its hosts, and a group without its option is left out.
            own = default.get(group, ()) if "HOSTS" in answers.given else ()
        elif answers.given[option] == _OFF:
            own = ()
            if group == REDIS:
                answers.wrong(
                    option,
                    "can't be left out of a new environment",
                    "name a host, and replace it by your own Redis in the generated files: docs/redis.md says how",
                )
                continue
            if group not in _OPTIONAL:
                answers.wrong(option, "can't be left out of a fleet", "name its host")
                continue
        else:
            own = answers.items(option)
            for host in own:
                if "HOSTS" in answers.given and host not in hosts:
                    answers.wrong(option, "is not one of HOSTS", near(host, hosts), host)
        if not own and group not in _OPTIONAL and hosts and option not in answers.given:
            answers.wrong(option, "has no host", f"name its host, or write HOSTS={','.join(hosts)}")
        if group == REDIS and own and len(own) % 2 == 0:
            answers.wrong(
                option,
                "is an even number of hosts, of which none could be lost without the majority that replaces it",
                "name one host, or three or five",
            )
        if group == BEAT and len(own) > 1:
            answers.wrong(
                option,
                "has more than one host",
                "leave one, and add others to the generated hosts.yml: docs/schedules.md says how",
            )
        if own:
            members[group] = own
    idle = set(hosts) - {host for own in members.values() for host in own}
    for host in filter(idle.__contains__, hosts):
        answers.wrong(
            "HOSTS", "is in no group", "remove it, or add it to one, such as WORKERS", host
        )
    return members


def read_addresses(answers: Answers, hosts: tuple[str, ...]) -> dict[str, str]:
    """Return the addresses of hosts for which one is given."""
    found: dict[str, str] = {}
    for host, address in answers.pairs("ADDRESSES", "host with its address"):
        if host not in hosts:
            answers.wrong("ADDRESSES", "is not one of HOSTS", near(host, hosts), host)
        elif host in found:
            answers.wrong("ADDRESSES", "has two addresses", "leave one", host)
        elif other := next(
            (one for one, its in found.items() if _plain(its) == _plain(address)), ""
        ):
            answers.wrong(
                "ADDRESSES",
                f"has the address of {other}",
                "give each host its own; list a host that does everything in HOSTS once",
                f"{host}={address}",
            )
        elif not _is_name_or_address(address.lower()):
            answers.wrong(
                "ADDRESSES",
                "is neither an address nor a name",
                "write it as in 10.1.0.11; add other SSH settings, such as a port, to hosts.yml later",
                f"{host}={address}",
            )
        elif len(hosts) > 1 and network.is_address(address) and not _is_reachable(address):
            answers.wrong(
                "ADDRESSES",
                "is not an address at which other hosts can reach it",
                "write the address that they use",
                f"{host}={address}",
            )
        else:
            found[host] = address
    return found


def read_firewall(answers: Answers, found: Environment) -> bool:
    """Return whether hosts get a firewall; with an unknown address they don't, and FIREWALL=on is refused."""
    choice = answers.choice("FIREWALL", ("on", "off"), "on")
    if len(found.hosts) < 2 or found.addresses_known:
        return choice == "on"
    if "FIREWALL" in answers.given and choice == "on":
        unknown = [
            host for host in found.hosts if not network.is_address(found.addresses.get(host, host))
        ]
        answers.wrong(
            "FIREWALL",
            f"needs the address of each host, but there is none for {', '.join(unknown)}",
            "give them in ADDRESSES; a name would have to be resolved before the network is up",
        )
    return False


def _is_name_or_address(text: str) -> bool:
    """Return whether SSH could reach it. Resolvers read a name that ends in a number as an address."""
    if network.is_address(text):
        return "%" not in text
    return HOST.fullmatch(text) is not None and _NUMBER.fullmatch(text.rpartition(".")[2]) is None


def _plain(text: str) -> str:
    """Return an address in its shortest form; a name as it is."""
    return str(ipaddress.ip_address(text)) if network.is_address(text) else text


def _is_reachable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
    )
