"""Checks ports, web paths, login names and memory of the daemons."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from ...desired import firewall
from ...desired.exporters import NODE, NODE_PORT
from ...desired.option import as_number
from ..model.inventory import UNKNOWN, Model, Problem, as_mapping, as_strings, as_text, number_text
from ..model.sizes import REDIS_SIZE, redis_bytes


@dataclass(frozen=True)
class _Port:
    variable: str
    group: str


_PORTS: Final = (
    _Port("redis_broker_port", "redis"),
    _Port("redis_results_port", "redis"),
    _Port("celery_app_sentinel_port", "redis"),
    _Port("celery_app_cache_port", "redis"),
    _Port("flower_port", "flower"),
    _Port("celery_producer_web_port", "celery_producers"),
    _Port("celery_producer_web_listen", "celery_producers"),
    _Port("celery_exporter_port", "fleet"),
    _Port("celery_exporter_listen", "fleet"),
    _Port("celery_exporter_redis_port", "redis"),
)
_LISTEN: Final = ("celery_producer_web_listen", "celery_exporter_listen")
_CLIENT_PORTS: Final = {
    "celery_app_broker_port": ("celery_app_broker_host", "redis_broker_port"),
    "celery_app_results_port": ("celery_app_results_host", "redis_results_port"),
}
_PREFIX = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
# nginx compares a path with the request's decoded path, without query, double slashes and dots to resolve. The other
# characters can't be in one word of its configuration.
_PROTECTED = re.compile(r"""(?!.*//)(?!.*/\.\.?(/|$))/[^\s%?#*;{}"'\\$]*""")
_AUTH_USER = re.compile(r"[\w.@+-]{1,128}")
_MEMORY: Final = ("redis_broker_maxmemory", "redis_results_maxmemory", "redis_cache_maxmemory")
# Redis itself takes about one MiB.
_LEAST_MEMORY: Final = 4 * 2**20


def check_ports(model: Model) -> Iterator[Problem]:
    """Check that ports are valid and unique on each host, and that clients use the one that Redis listens on."""
    yield from _listen(model)
    numbers = (port.variable for port in _PORTS if port.variable not in _LISTEN)
    for variable in (*numbers, *_CLIENT_PORTS):
        for value, hosts in model.distinct(variable):
            number = as_number(value)
            if number is not None and not is_port(number):
                yield Problem(
                    variable,
                    "is not a TCP port",
                    "write a whole number from 1 to 65535",
                    value=model.show((variable,), value),
                    hosts=hosts,
                )
    collisions: dict[tuple[str, str, str], list[str]] = {}
    for host in model.hosts:
        taken: dict[str, str] = {"22": "SSH"}
        if model.value(host, NODE) is True:
            taken[str(NODE_PORT)] = NODE
        for port in _PORTS:
            if host not in model.members(port.group):
                continue
            if not _is_used(model, host, port.variable):
                continue
            value = model.value(host, port.variable)
            if port.variable in _LISTEN:
                value = (listen_address(value) or ("", None))[1]
            number = as_number(value)
            if number is None:
                continue
            text = number_text(number)
            if text in taken:
                collisions.setdefault((port.variable, text, taken[text]), []).append(host)
            else:
                taken[text] = port.variable
    for (name, text, other), on in collisions.items():
        yield Problem(
            name,
            f"is the port of {other} on the same host",
            "choose another one",
            value=text,
            hosts=tuple(on),
        )
    yield from _clients(model)


def is_address(text: str) -> bool:
    """Return whether a text is an IP address, of either version."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine's own, as in localhost or 127.0.0.1."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def split_url(text: str, schemes: tuple[str, ...]) -> SplitResult | None:
    """Return the parts of a URL with a host and one of the schemes; None for any other text."""
    try:
        parts = urlsplit(text)
        # Reading the port raises ValueError if it is not a number.
        valid = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if valid and not re.search(r"\s", text) else None


def listen_address(value: object) -> tuple[str, int] | None:
    """Return address and port that the web process listens on; None for another value, also a wrong one."""
    try:
        return firewall.listen_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def is_port(number: float) -> bool:
    """Return whether a number is a TCP port."""
    return 1 <= number <= 65535 and number == int(number)


def _listen(model: Model) -> Iterator[Problem]:
    # Check every host of the fleet, because the ports of each host are computed regardless of its groups.
    for name in _LISTEN:
        for value, hosts in model.distinct(name, model.members("fleet")):
            # The specs accept a bare number as a string.
            if not isinstance(value, (str, int)) or value == "":
                continue
            address = listen_address(value)
            if address is None:
                reason = "is not an address with a port"
                remedy = 'write it as in 127.0.0.1:5000 or [::1]:5000; "" is a Unix socket'
            elif name == "celery_exporter_listen" and not is_loopback(address[0]):
                reason = (
                    "is an address that others can reach, but there is neither TLS nor a password"
                )
                remedy = (
                    'write 127.0.0.1:9808 for an agent on the host, or "" and celery_exporter_auth_password for a '
                    "Prometheus elsewhere"
                )
            else:
                continue
            yield Problem(name, reason, remedy, value=model.show((name,), value), hosts=hosts)


def _is_used(model: Model, host: str, variable: str) -> bool:
    """Return whether a port is used: Flower's unless it is part of the web site, the web's only if there is a site."""
    prefix = host in model.members("flower") and _prefix(model.value(host, "flower_url_prefix"))
    if variable == "flower_port":
        return not prefix
    if variable in ("redis_broker_port", "redis_results_port"):
        # With another Redis, by default they are the ports of its URLs, which may be the same.
        return "celery_app_broker_url" not in model.given[host]
    if variable == "celery_app_cache_port":
        return model.value(host, "celery_app_cache") is True
    if variable == "celery_producer_web_port":
        web = as_mapping(model.value(host, "celery_producer_web"))
        return bool(web.get("command") or prefix)
    if variable == "celery_producer_web_listen":
        return bool(as_mapping(model.value(host, "celery_producer_web")).get("command"))
    if variable == "celery_exporter_port":
        listen = model.value(host, "celery_exporter_listen")
        return model.value(host, "celery_exporter_enabled") is True and listen == ""
    if variable == "celery_exporter_listen":
        return model.value(host, "celery_exporter_enabled") is True
    if variable == "celery_exporter_redis_port":
        return model.value(host, "celery_exporter_redis_enabled") is True
    return True


def _prefix(value: object) -> str:
    return value.strip("/") if isinstance(value, str) else ""


def is_request_path(path: str) -> bool:
    """Return whether requests can begin with this path as nginx reads it. Other paths would protect nothing."""
    return path.isprintable() and _PROTECTED.fullmatch(path) is not None


def check_protected_paths(model: Model) -> Iterator[Problem]:
    """Refuse protected paths for which nginx could never ask for a password."""
    name = "celery_producer_web_protected_paths"
    for value, hosts in model.distinct(name, model.members("celery_producers")):
        paths = as_strings(value)
        for index, path in enumerate(paths):
            if not is_request_path(path):
                message = "is not a path that a request can begin with, so it would protect nothing"
                remedy = "write it decoded and from the root of the site, without wildcards, as in /admin/"
            elif path in paths[:index]:
                message, remedy = "is there twice", "write it once"
            else:
                continue
            yield Problem(
                f"{name}[{index}]", message, remedy, value=model.show((name,), path), hosts=hosts
            )


def check_users(model: Model) -> Iterator[Problem]:
    """Refuse names that could not log in: a name ends at the first colon, and Flower separates several by commas."""
    for name, group in (
        ("flower_auth_user", "flower"),
        ("celery_producer_web_auth_user", "celery_producers"),
        ("celery_exporter_auth_user", "fleet"),
    ):
        for value, hosts in model.distinct(name, model.members(group)):
            if isinstance(value, (str, int)) and not _AUTH_USER.fullmatch(str(value)):
                yield Problem(
                    name,
                    "is not a name that a user could log in with",
                    "use only letters, digits and . _ @ + -, as in admin",
                    value=model.show((name,), value),
                    hosts=hosts,
                )


def check_flower_prefix(model: Model) -> Iterator[Problem]:
    """Check that Flower's prefix is a path, its host has a web site, and no protected path is below the prefix."""
    name = "flower_url_prefix"
    for host in model.members("flower"):
        value = model.value(host, name)
        prefix = _prefix(value)
        shown = model.show((name,), value)
        if isinstance(value, str) and value and not _PREFIX.fullmatch(prefix):
            yield Problem(
                name,
                "is not a path within a web site",
                "write words of letters, digits, - and _, with / between them, as in flower",
                value=shown,
                hosts=(host,),
            )
            continue
        if prefix and host not in model.members("celery_producers"):
            yield Problem(
                name,
                "is set, but the host has no web site that Flower could be part of",
                'put the host into celery_producers, too, or write "" to give Flower its own port (flower_port)',
                value=shown,
                hosts=(host,),
            )
        for path in as_strings(model.value(host, "celery_producer_web_protected_paths")):
            if prefix and f"{path.rstrip('/')}/".startswith(f"/{prefix}/"):
                yield Problem(
                    name,
                    f"contains {path} of celery_producer_web_protected_paths, which asks for another password",
                    "choose another prefix, or take the path out of that list: Flower asks for its own password",
                    value=shown,
                    hosts=(host,),
                )


def _clients(model: Model) -> Iterator[Problem]:
    # Of several hosts, any may become the primary.
    servers = model.members("redis")
    for server, (variable, (host_variable, server_variable)) in itertools.product(
        servers, _CLIENT_PORTS.items()
    ):
        listening = as_number(model.value(server, server_variable))
        for value, hosts in model.distinct(variable):
            number = as_number(value)
            ours = tuple(
                host
                for host in hosts
                if servers[1:] or as_text(model.value(host, host_variable)) == server
            )
            if ours and number is not None and listening is not None and number != listening:
                yield _other_port(
                    model, server, ours, (server_variable, listening), (variable, number)
                )


def _other_port(
    model: Model,
    server: str,
    clients: tuple[str, ...],
    listens: tuple[str, float],
    connects: tuple[str, float],
) -> Problem:
    """Return the problem of a port on which Redis does not listen, at the variable that the user has set.

    Args:
        model: The inventory.
        server: The host of Redis.
        clients: Hosts that connect to another port.
        listens: The variable with the port on which Redis listens, and that port.
        connects: The variable with the port to which clients connect, and that port.
    """
    (server_variable, listening), (variable, number) = listens, connects
    if server_variable not in model.given[server]:
        return Problem(
            variable,
            f"is not the port on which Redis listens on {server} ({number_text(listening)})",
            f"set {variable} for all hosts, also for {server}",
            value=number_text(number),
            hosts=clients,
        )
    both = any(variable in model.given[host] for host in clients)
    return Problem(
        server_variable,
        f"is not the port to which {', '.join(clients)} connect ({variable}: {number_text(number)})",
        f"set both to the same port, or only {variable} for all hosts: Redis listens there by default"
        if both
        else f"write {variable}: {number_text(listening)} for all hosts instead: Redis listens there by default",
        value=number_text(listening),
        hosts=(server,),
    )


def redis_memory(model: Model, host: str) -> tuple[str, ...]:
    """Return the variables with the memory limits of a host's Redis instances."""
    return _MEMORY if model.value(host, "celery_app_cache") is True else _MEMORY[:2]


def check_memory(model: Model) -> Iterator[Problem]:
    """Check that Redis's memory limits are ones that redis.conf accepts, and large enough."""
    for variable in _MEMORY:
        for value, hosts in model.distinct(variable):
            if value is UNKNOWN or isinstance(value, bool) or not isinstance(value, (str, int)):
                continue
            match = REDIS_SIZE.fullmatch(str(value))
            if match is None or int(match[1]) == 0:
                yield Problem(
                    variable,
                    "is not a memory limit that Redis understands"
                    if match is None
                    else "is no limit at all: Redis would grow until the host has no memory left",
                    "write it as in 256mb or 2gb",
                    value=model.show((variable,), value),
                    hosts=hosts,
                )
            elif redis_bytes(value) < _LEAST_MEMORY:
                likely = not match[2] and _LEAST_MEMORY / 2**20 <= int(match[1]) < 10**6
                yield Problem(
                    variable,
                    "is hardly more than Redis needs for itself: it would be full at once",
                    f"did you mean {match[1]}mb? A number without a unit is bytes"
                    if likely
                    else "write it as in 256mb or 2gb; a number without a unit is bytes",
                    value=model.show((variable,), value),
                    hosts=hosts,
                )
