"""The sandbox is in force: the kernel confines each service's process as systemd says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.inventory import load_fleet

if TYPE_CHECKING:
    from ground import Ground

SERVICES: list[str] = load_fleet().of("fleet")["services"]

#: Kernel namespaces that are separate for each service, with the systemd directive that creates them.
NAMESPACES = {
    "user": "PrivateUsers",
    "mnt": "PrivateTmp",
    "ipc": "PrivateIPC",
    "uts": "ProtectHostname",
}
#: Properties that systemd must report for each service; otherwise the tests below would prove nothing.
CLAIMED = {
    "PrivateUsers": "yes",
    "PrivateTmp": "yes",
    "PrivateIPC": "yes",
    "PrivateDevices": "yes",
    "ProtectHostname": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectControlGroups": "yes",
    "NoNewPrivileges": "yes",
}


@dataclass(frozen=True)
class Process:
    """The main process of a service, as /proc shows it."""

    ground: Ground
    unit: str
    pid: str

    def read(self, name: str) -> str:
        """Return the content of a file in its /proc directory."""
        return self.ground.must(["cat", f"/proc/{self.pid}/{name}"])

    @property
    def status(self) -> dict[str, str]:
        """Return the fields of its `status`."""
        return {
            key: value.strip()
            for key, _, value in (line.partition(":") for line in self.read("status").splitlines())
        }

    def mounts(self) -> dict[str, set[str]]:
        """Return the options of each mount point and its file system; with several mounts, those of the topmost."""
        lines = (line.split(" ") for line in self.read("mountinfo").splitlines())
        return {
            words[4]: {*words[5].split(","), *words[-1].split(","), words[words.index("-") + 1]}
            for words in lines
        }

    def inside(self, script: str) -> tuple[int, str]:
        """Run a shell script in the process's namespaces, as its user without rights; return status and output."""
        uid, gid = (self.status[key].split()[0] for key in ("Uid", "Gid"))
        command = ["nsenter", f"--target={self.pid}", "--mount", "--ipc", "--uts", "--net"]
        command += [f"--setuid={uid}", f"--setgid={gid}", "--", "sh", "-c", script]
        done = self.ground.fleet.execute(self.ground.name, command)
        return done.status, done.output + done.errors


@pytest.fixture(params=SERVICES, scope="module")
def process(request: pytest.FixtureRequest, ground: Ground) -> Process:
    """Run the test for the main process of each service."""
    return look(ground, request.param)


def look(ground: Ground, unit: str) -> Process:
    """Return the main process of a service that is up."""
    shown = ground.show(unit, "MainPID", "ActiveState")
    assert shown["ActiveState"] == "active", unit
    return Process(ground, unit, shown["MainPID"])


def test_systemd_reports_the_sandbox(process: Process) -> None:
    assert process.ground.show(process.unit, *CLAIMED) == CLAIMED


def test_a_service_has_separate_namespaces(process: Process) -> None:
    script = "; ".join(
        f"readlink /proc/{pid}/ns/{name}" for pid in ("1", process.pid) for name in NAMESPACES
    )
    links = process.ground.must(script).split()
    hosts, own = links[: len(NAMESPACES)], links[len(NAMESPACES) :]
    shared = [name for name, theirs, its in zip(NAMESPACES, hosts, own, strict=True) if theirs == its]  # fmt: skip
    assert shared == []


def test_a_service_only_sees_root_and_its_own_user(process: Process) -> None:
    """PrivateUsers: it sees all other users of the host as `nobody`, and its root has no rights on the host."""
    for name, key in (("uid_map", "Uid"), ("gid_map", "Gid")):
        own = process.status[key].split()[0]
        assert own != "0"
        rows = {tuple(line.split()) for line in process.read(name).splitlines()}
        assert rows == {("0", "0", "1"), (own, own, "1")}


def test_a_service_has_no_capability_and_can_get_none(process: Process) -> None:
    status = process.status
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {key: int(status[key], 16) for key in sets} == dict.fromkeys(sets, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_service_sees_no_process_of_other_users(process: Process) -> None:
    """ProtectProc: the kernel hides them. It sees those of its own user, which pools need for their children."""
    options = process.mounts()["/proc"]
    assert options & {"hidepid=invisible", "hidepid=2"}
    status, words = process.inside("test -d /proc/1 || echo hidden; test -d /proc/$$ && echo own")
    assert (status, words.split()) == (0, ["hidden", "own"])


def test_a_service_cannot_write_to_the_system(process: Process) -> None:
    """ProtectSystem and ProtectControlGroups: the kernel mounts it read-only, so this does not depend on file modes."""
    mounts = process.mounts()
    assert "ro" in mounts["/"]
    assert {"ro", "cgroup2"} <= mounts["/sys/fs/cgroup"]
    for place in ("/usr", "/etc", "/sys/fs/cgroup"):
        # As the host's root, whom file modes don't stop, in the mount namespace of the process.
        command = ["nsenter", f"--target={process.pid}", "--mount", "--", "mkdir", f"{place}/probe"]
        done = process.ground.fleet.execute(process.ground.name, command)
        assert done.status != 0, place
        assert "Read-only file system" in done.errors


def test_a_service_does_not_see_the_kernels_settings(process: Process) -> None:
    """ProcSubset: /proc only shows processes."""
    command = ["nsenter", f"--target={process.pid}", "--mount", "--", "ls", "/proc/sys"]
    done = process.ground.fleet.execute(process.ground.name, command)
    assert done.status != 0
    assert "No such file" in done.errors
    assert process.inside("test -e /proc/self")[0] == 0


def test_a_service_has_private_temporary_files_and_devices_and_no_homes(process: Process) -> None:
    mounts = process.mounts()
    assert {"/tmp", "/var/tmp", "/dev", "/home", "/root"} <= set(mounts)
    ground = process.ground
    ground.must(["touch", "/tmp/of-the-host"])
    try:
        status, words = process.inside("ls /tmp/of-the-host /home/admin /dev/vda")
    finally:
        ground.must(["rm", "/tmp/of-the-host"])
    assert status != 0
    assert len(re.findall("No such file|Permission denied", words)) == 3, words


def test_secrets_are_in_memory_and_closed_to_other_users(ground: Ground) -> None:
    """LoadCredential: the file system is in memory, and closed to other users."""
    for unit in SERVICES:
        directory = f"/run/credentials/{unit}"
        assert ground.must(["ls", directory]).split(), unit
        kind = ground.must(["stat", "--file-system", "--format=%T", directory]).strip()
        assert kind in ("tmpfs", "ramfs"), unit
        found = ground.must(["find", directory, "-type", "f", "-perm", "/007"])
        assert found == "", unit
        done = ground.fleet.execute(ground.name, ["runuser", "-u", "nobody", "--", "ls", directory])
        assert "Permission denied" in done.errors
