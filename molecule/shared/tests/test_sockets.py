"""Which ports are open, and who may use them."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.inventory import Fleet, Variables
    from testinfra.host import Host

SSH, POSTGRESQL = 22, 5432

TRY = """
import socket, sys
try:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(sys.argv[1])
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""


def expected_ports(variables: Variables) -> set[int]:
    """Return the ports that a host of the inventory opens to others."""
    groups, ports = variables["group_names"], {SSH}
    if "redis" in groups:
        ports |= {variables["redis_broker_port"], variables["redis_results_port"]}
    if "celery_producers" in groups:
        ports.add(variables["celery_producer_web_port"])
    if "flower" in groups and not variables["flower_url_prefix"]:
        ports.add(variables["flower_port"])
    if "postgresql" in groups:
        ports.add(POSTGRESQL)
    return {int(port) for port in ports}


def test_no_other_port_is_open(host: Host, variables: Variables) -> None:
    listed = host.check_output("ss --no-header --listening --tcp --udp --numeric")
    found = set()
    for line in listed.splitlines():
        address, _, port = line.split()[4].rpartition(":")
        # Each container has Docker's name server.
        if not re.fullmatch(r"127\..*|\[::1\]", address):
            found.add(int(port))
    assert found == expected_ports(variables)


@pytest.mark.hosts("celery_producers")
def test_no_plaintext_http(variables: Variables) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((variables["ansible_host"], 80), 5)
    within = bool(variables["flower_url_prefix"])
    for port in ("celery_producer_web_port", *(() if within else ("flower_port",))):
        with socket.create_connection((variables["ansible_host"], variables[port]), 5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            plain.settimeout(5)
            assert b" 400 " in plain.recv(1000).splitlines()[0]


@pytest.mark.hosts("celery_producers")
@pytest.mark.parametrize("path", ["/run/{0}-web.sock", "/run/{0}-flower/flower.sock"])
@pytest.mark.parametrize(
    ("user", "outcome"),
    [("nobody", "PermissionError"), ("postgres", "PermissionError"), ("www-data", "connected")],
)
def test_only_nginx_may_open_a_unix_socket(
    fleet: Fleet, host_name: str, path: str, user: str, outcome: str
) -> None:
    path = path.format(fleet.expected[host_name]["celery_app_name"])
    command = ["runuser", "-u", user, "--", "python3", "-c", TRY, path]
    assert fleet.must(host_name, command).strip() == outcome
