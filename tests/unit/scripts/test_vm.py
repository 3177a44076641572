"""Emulated machines with a fake qemu: its arguments, and what starts, restarts and ends it."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from scripts import vm
from scripts.testhosts import keys
from scripts.testhosts import machine as machines
from scripts.testhosts.fleet import Fleet, HostsError

#: Takes qemu's arguments, records that it ran, sends the events that a file lists for this run, and ends.
QEMU = f"""#!{sys.executable}
import json, os, re, socket, sys, time
directory = os.path.dirname(sys.argv[0])
runs = os.path.join(directory, "runs")
with open(runs, "a") as stream:
    stream.write("x")
with open(os.path.join(directory, "endings")) as stream:
    ending = stream.read().split()[os.path.getsize(runs) - 1]
fd = next(int(m[1]) for m in (re.search("^socket,id=monitor,fd=([0-9]+)$", a) for a in sys.argv) if m)
monitor = socket.socket(fileno=fd)
assert b"qmp_capabilities" in monitor.recv(1000)
if ending == "for-ever":
    time.sleep(60)
end = json.dumps({{"event": "SHUTDOWN", "data": {{"guest": True, "reason": ending}}}})
monitor.sendall(b'{{"QMP": {{}}}}\\n' + end.encode() + b"\\n")
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet("cgroup2", "cf-0-cgroup2", tmp_path / "cgroup2")


@pytest.fixture
def machine(fleet: Fleet, tmp_path: Path) -> machines.Machine:
    directory = fleet.state / "machines" / "one"
    directory.mkdir(parents=True)
    made = machines.Machine("one.example.com", directory, tmp_path / "image", 2222)
    record = {
        "name": made.name,
        "image": str(made.image),
        "port": made.port,
        "architecture": "amd64",
    }
    (directory / "machine.json").write_text(json.dumps(record))
    return made


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the fake qemu; tests write into `endings` how its runs end."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "qemu-system-x86_64"
    program.write_text(QEMU)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def test_a_machine_is_found_again(fleet: Fleet, machine: machines.Machine) -> None:
    assert machines.load(fleet, "one") == machine
    with pytest.raises(HostsError, match="cgroup2 has no machine two"):
        machines.load(fleet, "two")


def test_commas_in_a_path_are_escaped(tmp_path: Path) -> None:
    machine = machines.Machine("one", tmp_path / "a,b", tmp_path / "image", 2222)
    words = machines.qemu_command(machine, 7)
    found = [word for word in words if str(tmp_path) in word and "image" not in word]
    assert len(found) == 3
    assert all(f"{tmp_path}/a,,b/" in word for word in found)


def test_qemu_gets_the_arguments_of_the_machine(machine: machines.Machine) -> None:
    words = machines.qemu_command(machine, 7)
    pairs = dict(itertools.pairwise(words))
    assert pairs["-netdev"] == "user,id=net,hostfwd=tcp:127.0.0.1:2222-:22"
    assert pairs["-kernel"] == f"{machine.image}/vmlinuz"
    assert "systemd.hostname=one.example.com" in pairs["-append"].split()
    assert "-no-reboot" in words
    assert "socket,id=monitor,fd=7" in words


def test_an_arm64_machine_has_another_qemu_and_console(tmp_path: Path) -> None:
    machine = machines.Machine("one", tmp_path, tmp_path / "image", 2222, "arm64")
    words = machines.qemu_command(machine, 7)
    assert words[0] == "qemu-system-aarch64"
    kernel = dict(itertools.pairwise(words))["-append"].split()
    assert "console=ttyAMA0" in kernel
    assert "tsc=unstable" not in kernel


@pytest.mark.parametrize(
    ("reasons", "again"),
    [
        (["guest-reset"], True),
        (["guest-shutdown"], False),
        (["host-signal"], False),
        ([], False),
    ],
)
def test_only_a_reboot_is_followed_by_another_boot(reasons: list[str], again: bool) -> None:
    events = [{"QMP": {}}, {"return": {}}, {"event": "RESUME"}]
    events += [{"event": "SHUTDOWN", "data": {"guest": True, "reason": one}} for one in reasons]
    assert machines.wants_to_boot_again(map(json.dumps, events)) is again


def test_the_keeper_runs_qemu_until_it_ends_without_a_reboot(
    machine: machines.Machine, qemu: Path
) -> None:
    (qemu / "endings").write_text("guest-reset guest-reset guest-shutdown")
    machines.keep(machine)
    assert (qemu / "runs").read_text() == "xxx"
    assert machines.process_of(machine, "qemu") is None


@pytest.mark.slow
def test_a_machine_that_does_not_start_is_reported_with_the_reason(
    machine: machines.Machine, qemu: Path
) -> None:
    (qemu / "endings").write_text("")  # it ends with a traceback, in the log
    machine.ssh_config.write_text("Host one.example.com\n  HostName 127.0.0.1\n  Port 1\n")
    with pytest.raises(HostsError, match=r"qemu has ended:[\s\S]*IndexError"):
        vm.start(machine)


def test_a_power_cut_ends_both_processes(machine: machines.Machine, qemu: Path) -> None:
    (qemu / "endings").write_text("for-ever")
    keeper = subprocess.Popen([sys.executable, "-m", "scripts.vm", "keep", str(machine.directory)])
    try:
        (machine.directory / "keeper.pid").write_text(str(keeper.pid))
        deadline = time.monotonic() + 30
        while machines.process_of(machine, "qemu") is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(machines.process_of(machine, "qemu") or 0, 9)
        assert keeper.wait(timeout=30) == 0
        assert machines.cut(machine) is False
    finally:
        keeper.kill()
        keeper.wait()


def test_another_process_with_the_same_number_is_left_alone(machine: machines.Machine) -> None:
    (machine.directory / "qemu.pid").write_text(str(os.getpid()))
    assert machines.process_of(machine, "qemu") is None
    assert machines.cut(machine) is False


def test_commands_share_a_connection_if_the_path_of_its_socket_is_short_enough(
    fleet: Fleet, machine: machines.Machine, tmp_path: Path
) -> None:
    short = machines.Machine("one", Path("/s/one"), machine.image, 2222)
    assert 'ControlPath "/s/one/ssh"' in vm.ssh_config(fleet, short)
    deep = machines.Machine("one", tmp_path / ("x" * 90), machine.image, 2222)
    assert "Control" not in vm.ssh_config(fleet, deep)


def test_keys_and_names_come_in_one_archive(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("private")
    (tmp_path / "key.pub").write_text("public")
    data = vm.own_archive(keys.key_archive("authorized", key), "one.example.com")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {entry.name: entry.mode for entry in archive}
        names = archive.extractfile("etc/hosts")
        assert names is not None
        assert f"{vm.ADDRESS} one.example.com one\n" in names.read().decode()
    assert found["etc/hostname"] == 0o644
    assert found["etc/ssh/ssh_host_ed25519_key"] == 0o600


def test_the_inventory_says_how_to_reach_each_machine(
    fleet: Fleet, machine: machines.Machine
) -> None:
    found = json.loads(vm.connection_inventory(fleet, [machine]).split("\n", 2)[2])
    variables = found["all"]["hosts"]["one.example.com"]
    assert (variables["ansible_host"], variables["ansible_port"]) == ("127.0.0.1", 2222)
    assert "StrictHostKeyChecking=yes" in variables["ansible_ssh_common_args"]
    assert found["all"]["vars"] == {"test_fleet_state": str(fleet.state)}
