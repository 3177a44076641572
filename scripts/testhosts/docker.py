"""Call the docker client, and create a network for each fleet that does not overlap with any other on this machine."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.testhosts.fleet import Fleet, HostsError

# Every object that is created has this label, with the fleet's name as its value.
LABEL_FLEET = "celery-fleet.fleet"


def docker(*arguments: str, stdin: bytes | None = None) -> str:
    """Run the docker client and return its output.

    Raises:
        HostsError: The client failed; the error has its message.
    """
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        command = " ".join(arguments[:2])
        raise HostsError(f"docker {command}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def inspect(kind: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Run `docker inspect` for several objects of one kind in one call."""
    if not names:
        return []
    found: list[dict[str, Any]] = json.loads(docker(kind, "inspect", *names))
    return found


def subnet_candidates(name: str) -> Iterator[ipaddress.IPv4Network]:
    """Yield private /24 networks for the fleet `name` endlessly, always in the same order."""
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{name}/{attempt}".encode()).digest()
        yield ipaddress.IPv4Network((f"10.{digest[0]}.{digest[1]}.0", 24))
        attempt += 1


def pick_subnet(name: str, taken: Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """Return the first candidate that does not overlap with a network in `taken`."""
    for attempt, candidate in enumerate(subnet_candidates(name)):
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
        if attempt == 999:
            break
    raise HostsError("no free 10.x.y.0/24 network for the test hosts: 1000 were tried")


def taken_subnets() -> list[ipaddress.IPv4Network]:
    """Return the networks that this machine already reaches: routes, name servers, networks of the Docker engine."""
    texts: list[str] = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        destination, mask = (int(fields[i], 16).to_bytes(4, "little") for i in (1, 7))
        texts.append(f"{ipaddress.IPv4Address(destination)}/{ipaddress.IPv4Address(mask)}")
    texts += re.findall(
        r"^nameserver\s+([\d.]+)\s*$", Path("/etc/resolv.conf").read_text(), re.MULTILINE
    )
    for network in inspect("network", docker("network", "ls", "--quiet").split()):
        texts += [
            entry["Subnet"] for entry in network["IPAM"]["Config"] or [] if "." in entry["Subnet"]
        ]
    networks = [ipaddress.IPv4Network(text, strict=False) for text in texts]
    return [network for network in networks if network.prefixlen > 0]  # not the default route


def ensure_network(fleet: Fleet) -> ipaddress.IPv4Network:
    """Find or create the fleet's network; return its subnet."""
    ids = docker(
        "network", "ls", "--quiet", "--filter", f"label={LABEL_FLEET}={fleet.name}"
    ).split()
    for found in inspect("network", ids):
        return ipaddress.IPv4Network(found["IPAM"]["Config"][0]["Subnet"])
    subnet = pick_subnet(fleet.name, taken_subnets())
    docker(
        *("network", "create", "--driver", "bridge", "--subnet", str(subnet)),
        *("--label", f"{LABEL_FLEET}={fleet.name}", fleet.name),
    )
    return subnet
