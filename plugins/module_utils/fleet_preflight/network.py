"""Ports and memory of the daemons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .model import UNKNOWN, Model, Problem, as_mapping, as_number, as_text, number_text


@dataclass(frozen=True)
class _Port:
    variable: str
    group: str


_PORTS: Final = (
    _Port("redis_broker_port", "redis"),
    _Port("redis_results_port", "redis"),
    _Port("flower_port", "flower"),
    _Port("celery_producer_web_port", "celery_producers"),
)
_CLIENT_PORTS: Final = {
    "celery_app_broker_port": ("celery_app_broker_host", "redis_broker_port"),
    "celery_app_results_port": ("celery_app_results_host", "redis_results_port"),
}
_MAXMEMORY = re.compile(r"([0-9]+)(b|kb?|mb?|gb?)?", re.IGNORECASE)


def check_ports(model: Model) -> Iterator[Problem]:
    """Ports are ports, no two of one host are the same, and clients use the one Redis listens on."""
    for variable in (*(port.variable for port in _PORTS), *_CLIENT_PORTS):
        for value, hosts in model.distinct(variable):
            number = as_number(value)
            if number is not None and not (1 <= number <= 65535 and number == int(number)):
                yield Problem(
                    variable,
                    "is no TCP port",
                    "write a whole number from 1 to 65535",
                    value=model.show((variable,), value),
                    hosts=hosts,
                )
    collisions: dict[tuple[str, str, str], list[str]] = {}
    for host in model.hosts:
        taken: dict[str, str] = {"22": "SSH"}
        for port in _PORTS:
            if host not in model.members(port.group):
                continue
            web = as_mapping(model.value(host, "celery_producer_web"))
            if port.variable == "celery_producer_web_port" and not web.get("command"):
                continue
            number = as_number(model.value(host, port.variable))
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


def _clients(model: Model) -> Iterator[Problem]:
    servers = model.members("redis")
    if len(servers) != 1:
        return
    for variable, (host_variable, server_variable) in _CLIENT_PORTS.items():
        listening = as_number(model.value(servers[0], server_variable))
        for value, hosts in model.distinct(variable):
            number = as_number(value)
            ours = tuple(
                host for host in hosts if as_text(model.value(host, host_variable)) == servers[0]
            )
            if ours and number is not None and listening is not None and number != listening:
                yield Problem(
                    variable,
                    f"is not the port that Redis listens on ({server_variable}: {number_text(listening)})",
                    f"set both to the same, or only {server_variable}",
                    value=model.show((variable,), value),
                    hosts=ours,
                )


def check_memory(model: Model) -> Iterator[Problem]:
    """Redis' memory limits as redis.conf takes them."""
    for variable in ("redis_broker_maxmemory", "redis_results_maxmemory"):
        for value, hosts in model.distinct(variable):
            if value is UNKNOWN or isinstance(value, bool) or not isinstance(value, (str, int)):
                continue
            match = _MAXMEMORY.fullmatch(str(value))
            if match is None or int(match[1]) == 0:
                yield Problem(
                    variable,
                    "is no limit of memory that Redis understands"
                    if match is None
                    else "is no limit at all: Redis would grow until the host has no memory left",
                    "write it as in 256mb or 2gb",
                    value=model.show((variable,), value),
                    hosts=hosts,
                )
