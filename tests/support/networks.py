"""A host and its neighbours in separate network namespaces, to test what its rules really let through."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

# A user who is not root becomes root inside a new user namespace.
OWN = (
    ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
)
HOST = ("10.9.0.1", "fd09::1")
NEIGHBOUR = ("10.9.0.2", "fd09::2")
STRANGER = ("10.9.0.66", "fd09::66")

_SERVE = """
import select, socket, sys
servers = []
for port in sys.argv[1:]:
    server = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    servers.append(server)
print("ready", flush=True)
held = []
while True:
    for ready in select.select([*servers, *held], [], [])[0]:
        if ready in servers:
            held.append(ready.accept()[0])
        else:
            try:
                text = ready.recv(100)
                ready.sendall(text)
            except OSError:
                text = b""
            if not text:
                held.remove(ready)
"""
_CALL = """
import json, socket, sys
source, address, port = sys.argv[1:]
own = (source, 0) if source else None
try:
    with socket.create_connection((address, int(port)), timeout=1, source_address=own) as one:
        # The kernel has answered, which is what the rules decide; the server may be slower.
        one.settimeout(60)
        one.sendall(b"x")
        print(json.dumps(one.recv(1) == b"x"))
except TimeoutError:
    print("false")
"""


def tool(name: str) -> str:
    """Return the path of a program that `make setup` installs."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail(f"{name} is not installed; run `make setup`")
    return found


@dataclass
class Network:
    """The namespaces of the host and of everyone else, as processes that keep them alive."""

    host: int
    others: int

    def on(
        self, who: int, *command: str, text: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in one of the namespaces."""
        enter = ["nsenter", f"--target={who}", "--net"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return subprocess.run(
            [*enter, *command],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **environment},
        )

    def root(self, who: int, command: str) -> None:
        done = self.on(who, "/bin/sh", "-ec", command)
        assert done.returncode == 0, done.stderr

    def load(self, text: str) -> None:
        """Load rules on the host."""
        done = self.on(self.host, tool("nft"), "-f", "-", text=text)
        assert done.returncode == 0, done.stderr

    def reaches(self, source: str, port: int, address: str = "") -> bool:
        """Return whether a client with this address gets an answer from the host; an empty one is the host itself."""
        target = address or (HOST[1] if ":" in source else HOST[0])
        who = self.others if source else self.host
        done = self.on(who, sys.executable, "-S", "-I", "-c", _CALL, source, target, str(port))
        assert done.returncode == 0, done.stderr
        return bool(json.loads(done.stdout))


@contextmanager
def network(ports: list[int]) -> Iterator[Network]:
    """Create a host that listens on these ports, and a client with addresses of a neighbour and of a stranger."""
    tool("ip")
    tool("nft")
    first = subprocess.Popen(
        [*OWN, "/bin/sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE
    )
    second = server = None
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ready\n", "no network namespace can be made here"
        made = Network(first.pid, 0)
        # The client's namespace belongs to the same user namespace.
        enter = ["nsenter", f"--target={first.pid}", "--net"]
        enter += ["--user", "--preserve-credentials"] if os.geteuid() != 0 else []
        second = subprocess.Popen(
            [*enter, "unshare", "--net", "/bin/sh", "-c", "echo ready; exec sleep 600"],
            stdout=subprocess.PIPE,
        )
        assert second.stdout is not None
        assert second.stdout.readline() == b"ready\n", "no second network namespace"
        made.others = second.pid
        made.root(
            made.host,
            f"ip link set lo up; ip link add host0 type veth peer name other0; ip link set other0 netns {made.others}; "
            f"ip addr add {HOST[0]}/24 dev host0; ip addr add {HOST[1]}/64 dev host0 nodad; ip link set host0 up",
        )
        addresses = "; ".join(
            f"ip addr add {four}/24 dev other0; ip addr add {six}/64 dev other0 nodad"
            for four, six in (NEIGHBOUR, STRANGER)
        )
        made.root(made.others, f"ip link set lo up; {addresses}; ip link set other0 up")
        server = subprocess.Popen(
            [*enter, sys.executable, "-S", "-I", "-c", _SERVE, *(str(port) for port in ports)],
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield made
    finally:
        for process in (server, second, first):
            if process is not None:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
