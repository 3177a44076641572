"""Create and remove emulated machines: test hosts with their own kernel, reached over SSH.

They test what containers on this machine can't: control groups version 2, memory limits of the kernel, user
namespaces, and a real boot. qemu emulates the processor. It needs neither KVM nor special rights, but is about ten
times slower than the machine itself.

Names and directories are the same as in scripts/hosts.py. A fleet's machines are in `.state/<fleet>/machines/`; their
keys and the fleet's record are in the same place as those of containers. Each machine has its own layer over the disk
that scripts/vm_image.sh builds, and a loopback port that forwards to its SSH. It has two processes: qemu, and the
keeper, which starts qemu again when the machine reboots.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.ports import free_port
from scripts.testhosts.fleet import ROOT, SUITE, USER, Fleet, HostsError, add_commands, write
from scripts.testhosts.keys import ensure_key, key_archive, ssh_arguments
from scripts.testhosts.machine import PROCESSORS, Machine, cut, keep, load, process_of

BOOT_TIMEOUT = (
    900.0  # seconds; a boot takes about 15 on an idle machine, and took 350 next to six other runs
)
ADDRESS = (
    "10.0.2.15"  # the same for every machine, each in its own network: molecule/shared/machine
)
# The path of a socket must fit into 108 bytes, and ssh appends 17 bytes while it creates its control socket.
LONGEST_SOCKET = 108 - 17 - 1


def start(machine: Machine) -> bool:
    """Start a machine and wait until it has booted; return whether it was off."""
    if process_of(machine, "keeper") is not None:
        wait_for_boot(machine)
        return False
    # Start a new session, because the keeper outlives this command.
    keeper = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "scripts.vm", "keep", str(machine.directory)],
        {**os.environ, "PYTHONPATH": str(ROOT)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, machine.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    write(machine.directory / "keeper.pid", str(keeper))
    wait_for_boot(machine)
    return True


def ssh_config(fleet: Fleet, machine: Machine) -> str:
    """Return the configuration for `ssh -F`; commands share a connection if its socket's path is short enough."""
    values = {
        "HostName": "127.0.0.1",
        "Port": machine.port,
        "User": USER,
        "IdentityFile": f'"{fleet.state / "id_ed25519"}"',
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": f'"{fleet.state / "known_hosts"}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": 60,
        "ServerAliveInterval": 30,
        "ServerAliveCountMax": 10,
    }
    shared = machine.directory / "ssh"
    if len(os.fsencode(shared)) <= LONGEST_SOCKET:
        values |= {"ControlMaster": "auto", "ControlPath": f'"{shared}"', "ControlPersist": 60}
    lines = [f"  {key} {value}" for key, value in values.items()]
    return "\n".join([f"Host {machine.name}", *lines]) + "\n"


def ssh(machine: Machine, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command in a machine over a separate connection.

    Raises:
        subprocess.TimeoutExpired: The command took longer than `timeout` seconds.
    """
    words = ["ssh", "-F", str(machine.ssh_config), "-o", "ControlPath=none", machine.name, command]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )


def tail(path: Path, lines: int = 15) -> str:
    """Return the end of a file; empty if there is no file."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def failed_units(machine: Machine) -> list[str]:
    """Return the failed units except health checks, which also fail because other parts are not deployed yet."""
    command = "systemctl list-units --failed --plain --no-legend"
    units = [line.split()[0] for line in ssh(machine, command, 60).stdout.splitlines()]
    return [unit for unit in units if not unit.endswith("-health.service")]


def wait_for_boot(machine: Machine) -> None:
    """Wait until systemd has started all units.

    Raises:
        HostsError: The machine did not boot, or units failed; the message has the reason.
    """
    deadline = time.monotonic() + BOOT_TIMEOUT
    said = ""
    while time.monotonic() < deadline:
        if process_of(machine, "keeper") is None:
            raise HostsError(f"{machine.name}: qemu has ended:\n{tail(machine.log)}")
        left = deadline - time.monotonic()
        try:
            done = ssh(machine, "systemctl is-system-running --wait", max(1.0, left))
        except subprocess.TimeoutExpired:
            break
        said = done.stdout.strip() or done.stderr.strip()
        if said in ("running", "degraded", "maintenance"):
            failed = [] if said == "running" else failed_units(machine)
            if failed or said == "maintenance":
                raise HostsError(f"{machine.name} is {said}. Failed units: {', '.join(failed)}")
            return
        time.sleep(0.5)
    raise HostsError(
        f"{machine.name} has not booted within {BOOT_TIMEOUT:.0f} s ({said}); the end of its console:\n"
        f"{tail(machine.console)}"
    )


def own_archive(keys: bytes, name: str) -> bytes:
    """Return the archive of a machine's keys, with its hostname and hosts files added."""
    short = name.partition(".")[0]
    aliases = name if short == name else f"{name} {short}"
    files = {
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n{ADDRESS} {aliases}\n::1 localhost ip6-localhost\n",
    }
    buffer = io.BytesIO(keys)
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for path, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def connection_inventory(fleet: Fleet, machines: Sequence[Machine]) -> str:
    """Return an inventory source with the connection variables of the machines, in JSON, which is also YAML."""
    shared = {
        "ansible_host": "127.0.0.1",
        "ansible_user": USER,
        "ansible_ssh_private_key_file": str(fleet.state / "id_ed25519"),
        "ansible_ssh_common_args": shlex.join(ssh_arguments(fleet)),
    }
    variables = {machine.name: {**shared, "ansible_port": machine.port} for machine in machines}
    everywhere = {"test_fleet_state": str(fleet.state)}
    text = json.dumps({"all": {"vars": everywhere, "hosts": variables}}, indent=2)
    return f"---\n# Made by scripts/vm.py: how to reach the machines of {fleet.name}.\n{text}\n"


def image_of(suite: str, architecture: str) -> Path:
    """Return the directory of the disk for a Debian suite and architecture, which is built when it is first needed."""
    command = [str(ROOT / "scripts/vm_image.sh"), suite, architecture]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise HostsError(
            f"the disk with Debian {suite} for {architecture} could not be built: see above"
        )
    return Path((ROOT / ".state" / f"machine-{suite}-{architecture}").read_text().strip())


def ensure_machine(fleet: Fleet, name: str, image: Path, architecture: str) -> tuple[Machine, bool]:
    """Create or keep the files of a machine; return whether they are new."""
    try:
        machine = load(fleet, name)
    except HostsError:
        machine = Machine(name, fleet.state / "machines" / name, image, free_port(), architecture)
    else:
        if machine.image == image:
            return machine, False
        cut(machine)
        shutil.rmtree(machine.directory)
    authorized_key = ensure_key(fleet.state / "id_ed25519", fleet.name)
    host_key = fleet.state / "host_keys" / name
    ensure_key(host_key, name)
    machine.directory.mkdir(parents=True, exist_ok=True)
    archive = machine.directory / "keys.tar"
    archive.touch(mode=0o600)
    archive.write_bytes(own_archive(key_archive(authorized_key, host_key), name))
    subprocess.run(
        [
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"),
            *("-b", str(image / "disk.qcow2"), str(machine.directory / "disk")),
        ],
        check=True,
    )
    machine = Machine(name, machine.directory, image, machine.port, architecture)
    write(machine.ssh_config, ssh_config(fleet, machine))
    facts = {
        "name": name,
        "image": str(image),
        "port": machine.port,
        "architecture": architecture,
    }
    write(machine.directory / "machine.json", json.dumps(facts) + "\n")
    return machine, True


def create(
    fleet: Fleet, images: dict[str, Path], inventory: Path, architecture: str = "amd64"
) -> bool:
    """Create and start the machines in `images` if necessary; return whether anything changed.

    Args:
        fleet: The fleet of these machines.
        images: The directory of each machine's disk by its name.
        inventory: The inventory file to write.
        architecture: Debian's name of their processors.
    """
    fleet.state.mkdir(parents=True, exist_ok=True)
    fleet.state.chmod(0o700)
    (fleet.state / "host_keys").mkdir(exist_ok=True)
    ensured = [
        ensure_machine(fleet, name, image, architecture) for name, image in sorted(images.items())
    ]
    machines = [machine for machine, _ in ensured]
    known = [
        f"[127.0.0.1]:{machine.port} "
        + (fleet.state / "host_keys" / f"{machine.name}.pub").read_text().strip()
        for machine in machines
    ]
    write(fleet.state / "known_hosts", "\n".join(known) + "\n")
    changed = [new for _, new in ensured] + [start(machine) for machine in machines]
    record: dict[str, Any] = {
        "name": fleet.name,
        "hosts": {
            machine.name: {
                **{key: str(value) for key, value in asdict(machine).items()},
                "ssh_config": str(machine.ssh_config),
            }
            for machine in machines
        },
    }
    write(fleet.state / "fleet.json", json.dumps(record, indent=2) + "\n")
    write(inventory, connection_inventory(fleet, machines))
    return any(changed)


def destroy(fleet: Fleet, inventory: Path) -> bool:
    """Remove everything that `create` made for the fleet; return whether there was anything."""
    changed = fleet.state.exists()
    for record in sorted((fleet.state / "machines").glob("*/machine.json")):
        cut(load(fleet, record.parent.name))
    inventory.unlink(missing_ok=True)
    if changed:
        shutil.rmtree(fleet.state)
    return changed


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments and create, destroy or keep machines."""
    parser = argparse.ArgumentParser(
        description="Create and remove the emulated machines of a fleet."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_commands(commands, "a Molecule scenario", "HOST", "a machine")
    commands.choices["create"].add_argument(
        "--architecture", choices=sorted(PROCESSORS), default="amd64"
    )
    command = commands.add_parser("keep")
    command.add_argument("directory", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "keep":
            state = options.directory.parents[1]
            keep(load(Fleet(state.name, state.name, state), options.directory.name))
            return 0
        fleet = Fleet.of(options.scenario)
        if options.command == "create":
            image = image_of(SUITE, options.architecture)
            changed = create(
                fleet,
                dict.fromkeys(options.hosts, image),
                options.inventory,
                options.architecture,
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
