"""Debian packages that are there for as long as a build needs them, with the real apt on a directory of the test's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import debian
from ansible_collections.celery_fleet.core.plugins.module_utils.release.debian import (
    clean_up,
    installed,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import (
    BuildError,
    Limit,
)

from tests.programs import required

pytestmark = pytest.mark.slow

LIMIT = Limit(60)
# Name -> its relations to other packages.
MIRROR = {
    "cpp": "",
    "gcc": "Depends: cpp",
    "make": "",
    "perl": "Suggests: make",
    "dkms": "Depends: gcc",
    "tcc": "Conflicts: gcc",
    # The directory has no shell that could run its script.
    "broken": "Depends: cpp",
}
CONFIGURATION = """
Dir "{root}";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Etc::trusted "/dev/null";
APT::Architecture "amd64";
APT::Sandbox::User "root";
DPkg::Path "/usr/sbin:/usr/bin:/sbin:/bin";
DPkg::Options {{ "--root={root}"; "--log=/dev/null"; "--force-not-root"; }};
"""


class Host:
    """A directory with packages, and a mirror that has more."""

    def __init__(self, directory: Path) -> None:
        self.root, self.mirror = directory / "root", directory / "mirror"
        self.dpkg = self.root / "var/lib/dpkg"
        for name in (
            *("var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/apt/lists/partial"),
            *("var/cache/apt/archives/partial", "var/log/apt", "etc/apt/sources.list.d"),
            *("etc/apt/preferences.d", "etc/apt/apt.conf.d", "etc/apt/trusted.gpg.d"),
        ):
            (self.root / name).mkdir(parents=True)
        (self.dpkg / "status").touch()
        (self.root / "etc/apt/sources.list").write_text(
            f"deb [trusted=yes] file:{self.mirror} ./\n"
        )
        configuration = directory / "apt.conf"
        configuration.write_text(CONFIGURATION.format(root=self.root))
        self.environment = {
            **debian._ENVIRONMENT,
            "APT_CONFIG": str(configuration),
            "DPKG_ADMINDIR": str(self.dpkg),
        }
        self._fill(directory / "package")

    def _fill(self, scratch: Path) -> None:
        self.mirror.mkdir()
        (scratch / "DEBIAN").mkdir(parents=True)
        index = ""
        for name, relation in MIRROR.items():
            control = (
                f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\n"
                f"Description: {name}\n" + (f"{relation}\n" if relation else "")
            )
            (scratch / "DEBIAN/control").write_text(control)
            if name == "broken":
                (scratch / "DEBIAN/postinst").write_text("#!/bin/sh\n")
                (scratch / "DEBIAN/postinst").chmod(0o755)
            path = self.mirror / f"{name}.deb"
            build = [required("dpkg-deb"), "--root-owner-group", "-Znone", "--build", scratch, path]
            subprocess.run(build, check=True, capture_output=True)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            size = path.stat().st_size
            index += f"{control}Filename: ./{path.name}\nSize: {size}\nSHA256: {digest}\n\n"
        (self.mirror / "Packages").write_text(index)

    def apt(self, *words: str) -> None:
        command = [required("apt-get"), "-q", "-y", *words]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def has(self) -> set[str]:
        return debian._installed(LIMIT)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[object]) -> Host:
    made = Host(tmp_path)
    made.apt("update")
    made.apt("install", "perl")
    monkeypatch.setattr(debian, "_ENVIRONMENT", made.environment)
    monkeypatch.setattr(debian, "_LOCK", tmp_path / "packages.lock")
    monkeypatch.setattr(debian, "RECORD", tmp_path / "celery-fleet/build-packages")
    return made


def test_packages_that_the_host_lacked_are_removed_again(host: Host) -> None:
    with installed(["gcc", "make"], LIMIT):
        assert host.has() == {"perl", "cpp", "gcc", "make"}
    assert host.has() == {"perl"}
    assert not debian.RECORD.parent.exists()


def test_a_host_that_has_all_packages_needs_no_mirror(host: Host, ran: list[object]) -> None:
    host.apt("install", "gcc", "make")
    ran.clear()
    with installed(["gcc", "make"], LIMIT):
        pass
    assert "apt-get" not in str(ran)
    assert host.has() == {"perl", "cpp", "gcc", "make"}


def test_packages_that_the_host_had_are_kept(host: Host) -> None:
    host.apt("install", "make", "cpp")
    with installed(["gcc", "make"], LIMIT):
        assert host.has() == {"perl", "cpp", "gcc", "make"}
    assert host.has() == {"perl", "cpp", "make"}


def test_packages_go_after_a_build_that_failed(host: Host) -> None:
    with pytest.raises(ValueError, match="broken"), installed(["gcc"], LIMIT):
        raise ValueError("broken")
    assert host.has() == {"perl"}


def test_an_installation_that_fails_leaves_nothing(host: Host) -> None:
    failing = pytest.raises(BuildError, match="installing Debian packages for the build failed")
    with failing, installed(["broken"], LIMIT):
        pass
    assert host.has() == {"perl"}
    assert not debian.RECORD.exists()


def test_no_package_of_the_host_is_removed_for_a_build(host: Host) -> None:
    host.apt("install", "tcc")
    failing = pytest.raises(BuildError, match="need to be removed but remove is disabled")
    with failing, installed(["gcc"], LIMIT):
        pass
    assert host.has() == {"perl", "tcc"}


def test_without_packages_apt_is_not_asked(host: Host, ran: list[object]) -> None:
    ran.clear()
    with installed([], LIMIT):
        pass
    assert clean_up(LIMIT) == []
    assert ran == []


def test_of_two_builds_the_last_one_removes_the_packages_of_both(host: Host) -> None:
    one, other = ExitStack(), ExitStack()
    one.enter_context(installed(["gcc"], LIMIT))
    other.enter_context(installed(["cpp", "make"], LIMIT))
    one.close()
    assert host.has() == {"perl", "cpp", "gcc", "make"}
    # Another run looks for what was left behind, and leaves what is still needed.
    assert clean_up(LIMIT) == []
    assert host.has() == {"perl", "cpp", "gcc", "make"}
    other.close()
    assert host.has() == {"perl"}


def test_a_build_waits_while_another_one_removes_packages(host: Host) -> None:
    entered = threading.Event()

    def build() -> None:
        with installed(["make"], LIMIT):
            entered.set()

    lock = os.open(debian._LOCK, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    thread = threading.Thread(target=build)
    thread.start()
    assert not entered.wait(0.5)
    os.close(lock)
    assert entered.wait(30)
    thread.join()


def killed(names: list[str]) -> None:
    """Let a build install packages, and end it at once."""
    child = os.fork()
    if child == 0:
        with installed(names, LIMIT):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_packages_of_a_killed_build_are_removed_by_the_next(host: Host) -> None:
    killed(["gcc"])
    assert host.has() == {"perl", "cpp", "gcc"}
    with installed(["gcc", "make"], LIMIT):
        assert host.has() == {"perl", "cpp", "gcc", "make"}
    assert host.has() == {"perl"}


def test_a_build_without_packages_removes_those_of_a_killed_one(host: Host) -> None:
    killed(["gcc"])
    assert clean_up(LIMIT) == []
    assert host.has() == {"perl"}
    assert not debian.RECORD.exists()


@pytest.mark.parametrize("wanted", ["gcc", "dkms"])
def test_packages_that_others_need_by_now_are_kept(host: Host, wanted: str) -> None:
    with installed(["gcc", "make"], LIMIT):
        host.apt("install", wanted)
    assert host.has() == {"perl", "cpp", "gcc", wanted}


def test_a_removal_that_fails_does_not_stop_another_build(host: Host) -> None:
    killed(["gcc"])
    status = host.dpkg / "status"
    before = status.read_text()
    status.write_text("nonsense")
    (remark,) = clean_up(LIMIT)
    assert "removing Debian packages for the build failed" in remark
    status.write_text(before)
    assert clean_up(LIMIT) == []
    assert host.has() == {"perl"}
