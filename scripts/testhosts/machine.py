"""An emulated machine and its two processes: qemu, and the keeper, which restarts qemu when the machine reboots.

`scripts/vm.py` creates and removes machines and reaches them over SSH.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.ports import hold
from scripts.testhosts.fleet import Fleet, HostsError, write

MEMORY = 2048  # MiB
NUMBER_OF_PROCESSORS = 2
#: MiB of translated code that qemu keeps. Without a limit it uses a gigabyte, without any measurable gain.
TRANSLATED = 128
STOP_TIMEOUT = 20.0  # seconds until one of our processes must have ended


@dataclass(frozen=True)
class Processor:
    """How qemu emulates a processor.

    Attributes:
        program: name of qemu's program.
        words: its options.
        kernel: options of the kernel that only exist there; None is an option without a value.
    """

    program: str
    words: tuple[str, ...]
    kernel: Mapping[str, str | None]


#: By Debian's name of the architecture.
PROCESSORS = {
    "amd64": Processor(
        "qemu-system-x86_64",
        ("-machine", "q35", "-cpu", "max"),
        {
            "console": "ttyS0",
            # The kernel measures the counter's frequency at boot. If qemu has to wait for the processor in that moment,
            # the result is wrong, and all clocks run many times too fast.
            "tsc": "unstable",
            # The kernel's test of timer interrupts has the same problem: it panics if ten of them take too long.
            "no_timer_check": None,
        },
    ),
    # qemu would spend most of its time on pointer authentication, which newer processors have.
    "arm64": Processor(
        "qemu-system-aarch64",
        ("-machine", "virt,gic-version=3", "-cpu", "cortex-a72"),
        {"console": "ttyAMA0"},
    ),
}


@dataclass(frozen=True)
class Machine:
    """One emulated machine.

    Attributes:
        name: its name in the inventory.
        directory: its disk, its pid files and the output of its console.
        image: directory of the disk, the kernel and the initrd from which it was made.
        port: port on this machine's loopback that is forwarded to its SSH.
        architecture: Debian's name of its processor.
    """

    name: str
    directory: Path
    image: Path
    port: int
    architecture: str = "amd64"

    @property
    def console(self) -> Path:
        """Return the file with the output of the kernel and systemd, from all boots."""
        return self.directory / "console"

    @property
    def log(self) -> Path:
        """Return the file with the output of qemu and its keeper."""
        return self.directory / "log"

    @property
    def ssh_config(self) -> Path:
        """Return the configuration file for `ssh -F`."""
        return self.directory / "ssh_config"


def load(fleet: Fleet, name: str) -> Machine:
    """Load an existing machine.

    Raises:
        HostsError: The fleet has no machine of this name.
    """
    record = fleet.state / "machines" / name / "machine.json"
    if not record.exists():
        raise HostsError(f"{fleet.scenario} has no machine {name}")
    found = json.loads(record.read_text())
    return Machine(
        found["name"], record.parent, Path(found["image"]), found["port"], found["architecture"]
    )


def option(**values: object) -> str:
    """Return a qemu argument with several values; commas in values are doubled."""
    pairs = ((key.rstrip("_"), str(value).replace(",", ",,")) for key, value in values.items())
    return ",".join(f"{key}={value}" for key, value in pairs)


def qemu_command(machine: Machine, monitor: int) -> list[str]:
    """Return the command line of qemu; `monitor` is the file descriptor of the socket for its events."""
    processor = PROCESSORS[machine.architecture]
    kernel: dict[str, str | None] = {
        "root": "/dev/vda",
        "panic": "1",
        "mitigations": "off",  # no other user runs code in there
        "systemd.hostname": machine.name,
        **processor.kernel,
    }
    words = " ".join(key if value is None else f"{key}={value}" for key, value in kernel.items())
    disk = option(
        if_="none",
        id="root",
        format="qcow2",
        file=machine.directory / "disk",
        cache="unsafe",
        discard="unmap",
    )
    keys = option(
        if_="none", id="keys", format="raw", readonly="on", file=machine.directory / "keys.tar"
    )
    return [
        *(processor.program, "-nodefaults", "-no-user-config", "-display", "none"),
        *processor.words,
        *("-accel", f"tcg,thread=multi,tb-size={TRANSLATED}"),
        *("-smp", str(NUMBER_OF_PROCESSORS), "-m", str(MEMORY)),
        # A reset within the process keeps the translations of all earlier code, and takes four times as long as a new
        # process. So a reboot ends qemu, and the keeper starts it again.
        "-no-reboot",
        *("-kernel", str(machine.image / "vmlinuz"), "-initrd", str(machine.image / "initrd")),
        *("-append", f"rw quiet {words}"),
        *("-drive", disk, "-device", "virtio-blk-pci,drive=root"),
        *("-drive", keys, "-device", "virtio-blk-pci,drive=keys"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{machine.port}-:22"),
        # Nothing boots from the network, and Debian's qemu for arm64 comes without that card's firmware.
        *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        *("-chardev", "file,append=on," + option(id="console", path=machine.console)),
        *("-serial", "chardev:console"),
        *("-chardev", "socket," + option(id="monitor", fd=monitor)),
        *("-mon", "chardev=monitor,mode=control"),
    ]


def wants_to_boot_again(lines: Iterable[str]) -> bool:
    """Return whether the machine ended with a reboot, according to the events from qemu's monitor.

    Without such an event, qemu was killed, which has the effect of a power cut.
    """
    reason = ""
    for line in lines:
        message = json.loads(line)
        if message.get("event") == "SHUTDOWN":
            reason = message["data"]["reason"]
    return reason == "guest-reset"


def keep(machine: Machine) -> None:
    """Run qemu, and start it again whenever the machine reboots."""
    # Meanwhile no other process may get its port. If one has it already, qemu ends and says so.
    with contextlib.suppress(OSError):
        hold(machine.port)
    again = True
    while again:
        ours, its = socket.socketpair()
        with ours:
            with its:
                process = subprocess.Popen(
                    qemu_command(machine, its.fileno()),
                    pass_fds=[its.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            write(machine.directory / "qemu.pid", str(process.pid))
            again = False
            # qemu resets the connection if it is killed, or ends before it sends any events.
            with contextlib.suppress(ConnectionError), ours.makefile() as stream:
                # Without this command, qemu sends no events.
                ours.sendall(b'{"execute": "qmp_capabilities"}\n')
                again = wants_to_boot_again(stream)
            process.wait()


def process_of(machine: Machine, kind: str) -> int | None:
    """Return the pid of a machine's `qemu` or `keeper`; None if it is not running.

    The command line shows whether another process has this pid by now, because then it does not name the machine.
    """
    try:
        pid = int((machine.directory / f"{kind}.pid").read_text())
        for _ in range(20):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            # The command line is empty when a process has ended, but also for a moment when it starts.
            if command or state == "Z":
                break
            time.sleep(0.01)
    except (OSError, ValueError):
        return None
    return pid if str(machine.directory).encode() in command else None


def wait_until_gone(machine: Machine) -> None:
    """Wait until neither process of a machine is running.

    Raises:
        HostsError: One of them does not end.
    """
    deadline = time.monotonic() + STOP_TIMEOUT
    while any(process_of(machine, kind) for kind in ("qemu", "keeper")):
        if time.monotonic() > deadline:
            raise HostsError(f"{machine.name}: qemu does not end; see {machine.log}")
        time.sleep(0.05)


def cut(machine: Machine) -> bool:
    """Cut a machine's power without warning; return whether it ran."""
    pid = process_of(machine, "qemu")
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    wait_until_gone(machine)
    return pid is not None
