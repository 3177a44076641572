"""Create and remove the test hosts of one fleet: containers with systemd, reached over SSH.

A fleet is one set of hosts for one purpose (`demo`, or a Molecule scenario) of one checkout. Several
fleets, and several checkouts, can exist on one machine: each fleet has its own names, network and keys.
Every object that it creates gets a label, and it removes only objects with this label.

`create` keeps the hosts that are already as they should be, and creates or replaces the others. You can run it
again if it failed or was killed at any point.

It uses only the standard library and the `docker` client. The containers have only the capabilities that
systemd's sandbox and credentials need (docs/development.md says why each is needed).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.testhosts.docker import LABEL_FLEET, docker, ensure_network, inspect
from scripts.testhosts.fleet import (
    ROOT,
    SUITE,
    USER,
    Fleet,
    HostsError,
    add_commands,
    pip_cache,
    write,
)
from scripts.testhosts.keys import ensure_key, key_archive, ssh_arguments

LABEL_SPEC = "celery-fleet.spec"
BOOT_TIMEOUT = 60.0  # seconds; a host boots in about one
FIRST_ADDRESS = 11

RUN_FLAGS = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"),
    # Root can read any user's files on a real host, but Docker does not grant that by default.
    *("--cap-add", "DAC_READ_SEARCH"),
    *("--security-opt", "seccomp=unconfined"),
    # A host that reboots comes back; a host that was stopped with `docker stop` does not.
    *("--restart", "unless-stopped"),
    *("--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run:mode=755", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"),  # noqa: S108 - a mount in the container
)


@dataclass(frozen=True)
class Container:
    """A host: its name in the inventory, its container, and its address in the fleet's network."""

    name: str
    container: str
    address: str


def create_flags(fleet: Fleet, host: Container, image: str) -> list[str]:
    """Return the arguments of `docker create` for a host, except for the label `LABEL_SPEC`."""
    flags = ["--name", host.container, "--hostname", host.name, "--network-alias", host.name]
    flags += ["--network", fleet.name, "--ip", host.address]
    flags += ["--label", f"{LABEL_FLEET}={fleet.name}", *RUN_FLAGS]
    flags += ["--volume", f"{pip_cache()}:/var/cache/pip"]
    return [*flags, image]


def ensure_host(fleet: Fleet, host: Container, image: str, authorized_key: str) -> bool:
    """Create, start or keep the container of a host, and wait until it has booted.

    Returns:
        Whether the container was created or started.
    """
    host_key = fleet.state / "host_keys" / host.name
    ensure_key(host_key, host.name)
    flags = create_flags(fleet, host, image)
    keys = (authorized_key, host_key.read_text())
    spec = hashlib.sha256(json.dumps([flags, keys]).encode()).hexdigest()[:16]

    ids = docker("ps", "--all", "--quiet", "--filter", f"name=^{host.container}$").split()
    for found in inspect("container", ids):
        # A container that never ran may lack its keys, if this program was killed before it started the container.
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


def wait_for_boot(host: Container, wanted: Collection[str]) -> None:
    """Wait until a host has booted.

    A host with a fleet is `degraded` while its health check reports a problem, for example if another host is down.

    Raises:
        HostsError: systemd is in none of the wanted states; the message lists the failed units.
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
    raise HostsError(
        f"{host.name} is {state or 'silent'}, not running. Failed units:\n{failed.stdout}"
    )


def check_login(fleet: Fleet, host: Container) -> None:
    """Log in once, in the same way as Ansible.

    Raises:
        HostsError: The login failed.
    """
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
        raise HostsError(f"can't log in to {host.name} ({host.address}): {done.stderr.strip()}")


def connection_inventory(fleet: Fleet, hosts: Sequence[Container]) -> str:
    """Return an inventory source with the connection variables of the hosts, in JSON, which is also YAML."""
    shared = {
        "ansible_user": USER,
        "ansible_port": 22,
        "ansible_ssh_private_key_file": str(fleet.state / "id_ed25519"),
        "ansible_ssh_common_args": shlex.join(ssh_arguments(fleet)),
    }
    variables = {host.name: {"ansible_host": host.address, **shared} for host in hosts}
    # The control side can keep other files for these hosts in this directory; they are removed with the hosts.
    everywhere = {"test_fleet_state": str(fleet.state)}
    text = json.dumps({"all": {"vars": everywhere, "hosts": variables}}, indent=2)
    return (
        f"---\n# Made by scripts/hosts.py: how to reach the test hosts of {fleet.name}.\n{text}\n"
    )


def create(fleet: Fleet, images: Mapping[str, str], inventory: Path) -> bool:
    """Create the hosts in `images`, remove the fleet's other hosts, and write the inventory with their addresses.

    Args:
        fleet: The fleet of these hosts.
        images: The image of each host by its name.
        inventory: The inventory file to write.

    Returns:
        Whether any container was created, started or removed.
    """
    if len(images) > 200:
        raise HostsError(f"{len(images)} hosts do not fit into one test network")
    fleet.state.mkdir(parents=True, exist_ok=True)
    fleet.state.chmod(0o700)
    (fleet.state / "host_keys").mkdir(exist_ok=True)
    authorized_key = ensure_key(fleet.state / "id_ed25519", fleet.name)
    pip_cache().mkdir(parents=True, exist_ok=True)
    pip_cache().chmod(0o1777)  # pip refuses a cache that its user can't write to
    subnet = ensure_network(fleet)
    hosts = [
        Container(name, f"{fleet.name}-{name}", str(subnet[FIRST_ADDRESS + index]))
        for index, name in enumerate(sorted(images))
    ]
    changed = [remove_containers(fleet, keep={host.container for host in hosts})]
    with ThreadPoolExecutor(max_workers=8) as pool:
        changed += pool.map(
            lambda host: ensure_host(fleet, host, images[host.name], authorized_key), hosts
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
    """Remove the fleet's containers except those named in `keep`; return whether there were any."""
    listing = docker(
        *("ps", "--all", "--filter", f"label={LABEL_FLEET}={fleet.name}", "--format", "{{.Names}}")
    )
    surplus = [name for name in listing.split() if name not in (keep or set())]
    if surplus:
        docker("rm", "--force", "--volumes", *surplus)
    return bool(surplus)


def destroy(fleet: Fleet, inventory: Path) -> bool:
    """Remove everything that `create` made for the fleet, except cached packages; return whether there was anything."""
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
    """Return the image of a Debian suite. `make setup` builds the usual image; others are built on first use."""
    path = ROOT / ".state" / f"image-{suite}"
    if suite != SUITE:
        command = [str(ROOT / "scripts/image.sh"), suite]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise HostsError(f"the image of Debian {suite} could not be built: see above")
    elif not path.exists():
        raise HostsError(f"there is no image of Debian {suite} yet: run 'make setup'")
    return path.read_text().strip()


def named(words: Sequence[str]) -> dict[str, str]:
    """Return the suite of each host by its name, from words such as `redis1` or `redis1=trixie`."""
    found: dict[str, str] = {}
    for word in words:
        name, _, suite = word.partition("=")
        suite = suite or SUITE
        if not re.fullmatch(r"[a-z]+", suite):
            raise HostsError(f"{suite!r}, of the host {name}, is not a Debian suite")
        if name in found:
            raise HostsError(f"the host {name} is named twice")
        found[name] = suite
    return found


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments and create or destroy a fleet."""
    parser = argparse.ArgumentParser(description="Create and remove the test hosts of one fleet.")
    add_commands(
        parser.add_subparsers(dest="command", required=True),
        "demo, or a Molecule scenario",
        "HOST[=SUITE]",
        f"a host, and its Debian suite if it is not {SUITE}",
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
    except HostsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("changed" if changed else "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
