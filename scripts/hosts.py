"""Make and remove the test hosts of one fleet: containers with systemd, reached over SSH.

A fleet is one set of hosts for one purpose (`demo`, or a Molecule scenario) of one checkout. Several
fleets, and several checkouts, live side by side on one machine: names, network and keys are a fleet's
own. All that is made carries a label, and exactly what carries it is removed.

`create` settles the fleet: what is there and right stays, what is missing or different is made anew,
so that it may be run again after a failure or a kill at any point.

Only the standard library and the `docker` client are used; the capabilities given to the containers
are the least with which systemd's sandbox and credentials work (see docs/architecture.md, test hosts).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import ipaddress
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LABEL_FLEET = "celery-fleet.fleet"
LABEL_SPEC = "celery-fleet.spec"
SUITE = "bookworm"  # of hosts that name none
USER = "admin"
BOOT_TIMEOUT = 60.0  # seconds; a host is up in about one
FIRST_ADDRESS = 11

RUN_FLAGS = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"),
    # Of root's on any host, but not among Docker's: to read whatever is whose, without the right to write it.
    *("--cap-add", "DAC_READ_SEARCH"),
    *("--security-opt", "seccomp=unconfined"),
    # A host that reboots itself comes back; one that `docker stop` stopped does not.
    *("--restart", "unless-stopped"),
    *("--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run:mode=755", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"),  # noqa: S108 - a mount in the container
)


class FleetError(Exception):
    """What stops this script, in words for the person who started it."""


@dataclass(frozen=True)
class Host:
    """One host: its name in the inventory, its container, its address on the fleet's network."""

    name: str
    container: str
    address: str


@dataclass(frozen=True)
class Fleet:
    """The names and places of one fleet.

    Attributes:
        scenario: `demo`, or the name of a Molecule scenario.
        name: prefix of its containers and name of its network; unique on this machine.
        state: directory of its keys and of `fleet.json`.
    """

    scenario: str
    name: str
    state: Path

    @classmethod
    def of(cls, scenario: str, root: Path = ROOT) -> Fleet:
        """The fleet of `scenario` in the checkout at `root`."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", scenario):
            raise FleetError(f"{scenario!r} is no name for a fleet: use a-z, 0-9, '_' and '-'")
        checkout = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        return cls(scenario, f"cf-{checkout}-{scenario}", root / ".state" / scenario)


def docker(*arguments: str, stdin: bytes | None = None) -> str:
    """Run the docker client and return what it printed; FleetError with its message if it fails."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        command = " ".join(arguments[:2])
        raise FleetError(f"docker {command}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def inspect(kind: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """`docker inspect` of several objects of one kind in one call."""
    if not names:
        return []
    found: list[dict[str, Any]] = json.loads(docker(kind, "inspect", *names))
    return found


# --- network ---------------------------------------------------------------------------------------


def subnet_candidates(name: str) -> Iterator[ipaddress.IPv4Network]:
    """Private /24 networks for the fleet `name`, always in the same order, without an end."""
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{name}/{attempt}".encode()).digest()
        yield ipaddress.IPv4Network((f"10.{digest[0]}.{digest[1]}.0", 24))
        attempt += 1


def pick_subnet(name: str, taken: Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first candidate that overlaps with nothing in `taken`."""
    for attempt, candidate in enumerate(subnet_candidates(name)):
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
        if attempt == 999:
            break
    raise FleetError("no free 10.x.y.0/24 network for the test hosts: 1000 were tried")


def taken_subnets() -> list[ipaddress.IPv4Network]:
    """What this machine reaches already: routes, name servers, networks of the Docker engine."""
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


def settle_network(fleet: Fleet) -> ipaddress.IPv4Network:
    """Make the fleet's network, or find it as it was made; its subnet."""
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


# --- keys ------------------------------------------------------------------------------------------


def settle_key(path: Path, comment: str) -> str:
    """Make an SSH key pair at `path` unless there is one; its public key."""
    public = path.with_name(path.name + ".pub")
    if not (path.exists() and public.exists()):
        path.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    return public.read_text().strip()


def key_archive(authorized_key: str, host_key: Path) -> bytes:
    """A tar archive, for `/`, of what lets this machine in and lets it know whom it talks to.

    The host keys are made here rather than collected from the hosts, so that not even the first
    connection trusts what it meets.
    """
    public = host_key.with_name(host_key.name + ".pub")
    files = {
        f"etc/ssh/authorized_keys/{USER}": (authorized_key + "\n", 0o644),
        "etc/ssh/ssh_host_ed25519_key": (host_key.read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (public.read_text(), 0o644),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (text, mode) in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


# --- hosts -----------------------------------------------------------------------------------------


def cache_directory() -> Path:
    """Where downloaded packages are kept, and nothing but packages."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-fleet"


def pip_cache() -> Path:
    """pip's cache, shared by all hosts of all fleets: pip makes it for concurrent use.

    There is none for Debian's packages: apt locks its cache, and fetching is a small part of installing.
    """
    return cache_directory() / "pip"


def create_flags(fleet: Fleet, host: Host, image: str) -> list[str]:
    """The arguments of `docker create` for a host, without its label of the specification."""
    flags = ["--name", host.container, "--hostname", host.name, "--network-alias", host.name]
    flags += ["--network", fleet.name, "--ip", host.address]
    flags += ["--label", f"{LABEL_FLEET}={fleet.name}", *RUN_FLAGS]
    flags += ["--volume", f"{pip_cache()}:/var/cache/pip"]
    return [*flags, image]


def settle_host(fleet: Fleet, host: Host, image: str, authorized_key: str) -> bool:
    """Make, or start, or leave alone the container of one host; when it has booted, whether it changed."""
    host_key = fleet.state / "host_keys" / host.name
    settle_key(host_key, host.name)
    flags = create_flags(fleet, host, image)
    keys = (authorized_key, host_key.read_text())
    spec = hashlib.sha256(json.dumps([flags, keys]).encode()).hexdigest()[:16]

    ids = docker("ps", "--all", "--quiet", "--filter", f"name=^{host.container}$").split()
    for found in inspect("container", ids):
        # One that never ran may lack its keys: a kill can come between its creation and its start.
        ran = not found["State"]["StartedAt"].startswith("0001-")
        if ran and found["Config"]["Labels"].get(LABEL_SPEC) == spec:
            stopped = not found["State"]["Running"]
            if stopped:
                docker("start", host.container)
            wait_for_boot(host, {"running", "degraded"})
            return stopped
        docker("rm", "--force", "--volumes", host.container)

    docker("create", "--label", f"{LABEL_SPEC}={spec}", *flags)
    docker("cp", "-", f"{host.container}:/", stdin=key_archive(authorized_key, host_key))
    docker("start", host.container)
    wait_for_boot(host, {"running"})
    return True


def wait_for_boot(host: Host, wanted: Collection[str]) -> None:
    """Wait for the end of a boot; FleetError with what failed if systemd is in none of the wanted states then.

    A host with a fleet is `degraded` while its check of health finds something, as when another host is down.
    """
    deadline = time.monotonic() + BOOT_TIMEOUT
    state = ""
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["docker", "exec", host.container, "systemctl", "is-system-running"],
            capture_output=True,
            text=True,
            check=False,
        )
        state = done.stdout.strip() or done.stderr.strip()
        if state in wanted:
            return
        if state in ("degraded", "maintenance", "stopping"):
            break
        time.sleep(0.1)
    failed = subprocess.run(
        ["docker", "exec", host.container, "systemctl", "list-units", "--failed", "--no-legend"],
        capture_output=True,
        text=True,
        check=False,
    )
    raise FleetError(
        f"{host.name} is {state or 'silent'}, not running. Failed units:\n{failed.stdout}"
    )


def ssh_arguments(fleet: Fleet) -> list[str]:
    """The options of ssh that hold for all hosts of a fleet."""
    # ssh takes several files here, parted by spaces, hence the quotes around the one.
    return [
        *("-o", f'UserKnownHostsFile="{fleet.state / "known_hosts"}"'),
        *("-o", "GlobalKnownHostsFile=/dev/null"),
        *("-o", "StrictHostKeyChecking=yes"),
        *("-o", "IdentitiesOnly=yes"),
    ]


def check_login(fleet: Fleet, host: Host) -> None:
    """Log in once as Ansible will; FleetError if that fails."""
    key = str(fleet.state / "id_ed25519")
    options = [*ssh_arguments(fleet), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-i", key]
    done = subprocess.run(
        ["ssh", *options, f"{USER}@{host.address}", "sudo -n true"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise FleetError(f"can't log in to {host.name} ({host.address}): {done.stderr.strip()}")


# --- what is written for others --------------------------------------------------------------------


def connection_inventory(fleet: Fleet, hosts: Sequence[Host]) -> str:
    """An inventory source that says how to reach the hosts; JSON, which is YAML too."""
    shared = {
        "ansible_user": USER,
        "ansible_port": 22,
        "ansible_ssh_private_key_file": str(fleet.state / "id_ed25519"),
        "ansible_ssh_common_args": shlex.join(ssh_arguments(fleet)),
    }
    variables = {host.name: {"ansible_host": host.address, **shared} for host in hosts}
    # Whatever else the control side keeps for these hosts may live, and end, with them.
    everywhere = {"test_fleet_state": str(fleet.state)}
    text = json.dumps({"all": {"vars": everywhere, "hosts": variables}}, indent=2)
    return (
        f"---\n# Made by scripts/hosts.py: how to reach the test hosts of {fleet.name}.\n{text}\n"
    )


def write(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)


# --- commands --------------------------------------------------------------------------------------


def create(fleet: Fleet, images: Mapping[str, str], inventory: Path) -> bool:
    """Settle the fleet so that it has exactly the hosts that `images` names, and write how to reach them.

    Args:
        fleet: Whose hosts.
        images: The image of each host by its name.
        inventory: Where to write how to reach them.

    Returns:
        Whether any container was made, started or removed.
    """
    if len(images) > 200:
        raise FleetError(f"{len(images)} hosts do not fit on one test network")
    fleet.state.mkdir(parents=True, exist_ok=True)
    fleet.state.chmod(0o700)
    (fleet.state / "host_keys").mkdir(exist_ok=True)
    authorized_key = settle_key(fleet.state / "id_ed25519", fleet.name)
    pip_cache().mkdir(parents=True, exist_ok=True)
    pip_cache().chmod(0o1777)  # pip refuses a cache that its user can't write to
    subnet = settle_network(fleet)
    hosts = [
        Host(name, f"{fleet.name}-{name}", str(subnet[FIRST_ADDRESS + index]))
        for index, name in enumerate(sorted(images))
    ]
    changed = [remove_containers(fleet, keep={host.container for host in hosts})]
    with ThreadPoolExecutor(max_workers=8) as pool:
        changed += pool.map(
            lambda host: settle_host(fleet, host, images[host.name], authorized_key), hosts
        )
    known = [
        f"{host.address} {(fleet.state / 'host_keys' / f'{host.name}.pub').read_text().strip()}"
        for host in hosts
    ]
    write(fleet.state / "known_hosts", "\n".join(known) + "\n")
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda host: check_login(fleet, host), hosts))
    facts = {"name": fleet.name, "subnet": str(subnet)}
    record = {
        **facts,
        "hosts": {host.name: {**asdict(host), "image": images[host.name]} for host in hosts},
    }
    write(fleet.state / "fleet.json", json.dumps(record, indent=2) + "\n")
    write(inventory, connection_inventory(fleet, hosts))
    return any(changed)


def remove_containers(fleet: Fleet, keep: set[str] | None = None) -> bool:
    """Remove the fleet's containers but those named in `keep`; whether there were any."""
    listing = docker(
        *("ps", "--all", "--filter", f"label={LABEL_FLEET}={fleet.name}", "--format", "{{.Names}}")
    )
    surplus = [name for name in listing.split() if name not in (keep or set())]
    if surplus:
        docker("rm", "--force", "--volumes", *surplus)
    return bool(surplus)


def destroy(fleet: Fleet, inventory: Path) -> bool:
    """Remove all that `create` made for the fleet, but the packages in the cache; whether there was any."""
    changed = remove_containers(fleet)
    ids = docker(
        "network", "ls", "--quiet", "--filter", f"label={LABEL_FLEET}={fleet.name}"
    ).split()
    if ids:
        docker("network", "rm", *ids)
    inventory.unlink(missing_ok=True)
    if fleet.state.exists():
        shutil.rmtree(fleet.state)
    return changed or bool(ids)


def image_of(suite: str) -> str:
    """The image of a Debian suite: that of most hosts by `make setup`, another one when the first host needs it."""
    path = ROOT / ".state" / f"image-{suite}"
    if suite != SUITE:
        command = [str(ROOT / "scripts/image.sh"), suite]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise FleetError(f"there is no image of Debian {suite}: see above")
    elif not path.exists():
        raise FleetError(f"there is no image of Debian {suite} yet: run 'make setup'")
    return path.read_text().strip()


def named(words: Sequence[str]) -> dict[str, str]:
    """The suite of each host by its name, of words such as `redis1` or `redis1=trixie`."""
    found: dict[str, str] = {}
    for word in words:
        name, _, suite = word.partition("=")
        suite = suite or SUITE
        if not re.fullmatch(r"[a-z]+", suite):
            raise FleetError(f"{suite!r}, of the host {name}, is no Debian suite")
        if name in found:
            raise FleetError(f"the host {name} is named twice")
        found[name] = suite
    return found


def add_commands(commands: Any, scenario: str, host: str, host_help: str) -> None:
    """Add `create` and `destroy` to a parser's commands: what they are given is the same for every kind of host."""
    for name in ("create", "destroy"):
        command = commands.add_parser(name)
        command.add_argument("--scenario", required=True, help=scenario)
        command.add_argument(
            "--inventory",
            required=True,
            type=Path,
            help="the inventory source with the connections",
        )
        if name == "create":
            command.add_argument("hosts", nargs="+", metavar=host, help=host_help)


def main(arguments: Sequence[str]) -> int:
    """Parse, call, print."""
    parser = argparse.ArgumentParser(description="Make and remove the test hosts of one fleet.")
    add_commands(
        parser.add_subparsers(dest="command", required=True),
        "demo, or a Molecule scenario",
        "HOST[=SUITE]",
        f"a host, and its Debian suite where that is not {SUITE}",
    )
    options = parser.parse_args(arguments)
    try:
        fleet = Fleet.of(options.scenario)
        if options.command == "create":
            suites = named(options.hosts)
            images = {suite: image_of(suite) for suite in sorted(set(suites.values()))}
            changed = create(
                fleet, {name: images[suite] for name, suite in suites.items()}, options.inventory
            )
        else:
            changed = destroy(fleet, options.inventory)
    except FleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("changed" if changed else "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
