"""Debian packages that are there for as long as a build needs them, with the real apt on a directory of the test's."""

from __future__ import annotations

import fcntl
import os
import signal
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

from tests.debian_host import DebianHost

pytestmark = pytest.mark.slow

LIMIT = Limit(60)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[object]) -> DebianHost:
    made = DebianHost(tmp_path)
    made.apt("update")
    made.apt("install", "perl")
    monkeypatch.setattr(debian, "_ENVIRONMENT", made.environment)
    monkeypatch.setattr(debian, "_JOURNAL", made.dpkg / "updates")
    monkeypatch.setattr(debian, "_LOCK", tmp_path / "packages.lock")
    monkeypatch.setattr(debian, "RECORD", tmp_path / "celery-fleet/build-packages")
    return made


def test_packages_that_the_host_lacked_are_removed_again(host: DebianHost) -> None:
    with installed(["gcc", "make"], LIMIT):
        assert host.has() == {"perl", "cpp", "gcc", "make"}
    assert host.has() == {"perl"}
    assert not debian.RECORD.parent.exists()


def test_a_host_that_has_all_packages_needs_no_mirror(host: DebianHost, ran: list[object]) -> None:
    host.apt("install", "gcc", "make")
    ran.clear()
    with installed(["gcc", "make"], LIMIT):
        pass
    assert "apt-get" not in str(ran)
    assert host.has() == {"perl", "cpp", "gcc", "make"}


def test_packages_that_the_host_had_are_kept(host: DebianHost) -> None:
    host.apt("install", "make", "cpp")
    with installed(["gcc", "make"], LIMIT):
        assert host.has() == {"perl", "cpp", "gcc", "make"}
    assert host.has() == {"perl", "cpp", "make"}


def test_packages_go_after_a_build_that_failed(host: DebianHost) -> None:
    with pytest.raises(ValueError, match="broken"), installed(["gcc"], LIMIT):
        raise ValueError("broken")
    assert host.has() == {"perl"}


def test_an_installation_that_fails_leaves_nothing(host: DebianHost) -> None:
    failing = pytest.raises(BuildError, match="installing Debian packages for the build failed")
    with failing, installed(["broken"], LIMIT):
        pass
    assert host.has() == {"perl"}
    assert not debian.RECORD.exists()


def test_no_package_of_the_host_is_removed_for_a_build(host: DebianHost) -> None:
    host.apt("install", "tcc")
    failing = pytest.raises(BuildError, match="need to be removed but remove is disabled")
    with failing, installed(["gcc"], LIMIT):
        pass
    assert host.has() == {"perl", "tcc"}


def test_without_packages_apt_is_not_asked(host: DebianHost, ran: list[object]) -> None:
    ran.clear()
    with installed([], LIMIT):
        pass
    assert clean_up(LIMIT) == []
    assert ran == []


def test_of_two_builds_the_last_one_removes_the_packages_of_both(host: DebianHost) -> None:
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


def test_a_build_waits_while_another_one_removes_packages(host: DebianHost) -> None:
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


def test_packages_of_a_killed_build_are_removed_by_the_next(host: DebianHost) -> None:
    killed(["gcc"])
    assert host.has() == {"perl", "cpp", "gcc"}
    with installed(["gcc", "make"], LIMIT):
        assert host.has() == {"perl", "cpp", "gcc", "make"}
    assert host.has() == {"perl"}


def test_a_build_without_packages_removes_those_of_a_killed_one(host: DebianHost) -> None:
    killed(["gcc"])
    assert clean_up(LIMIT) == []
    assert host.has() == {"perl"}
    assert not debian.RECORD.exists()


@pytest.mark.parametrize("wanted", ["gcc", "dkms"])
def test_packages_that_others_need_by_now_are_kept(host: DebianHost, wanted: str) -> None:
    with installed(["gcc", "make"], LIMIT):
        host.apt("install", wanted)
    assert host.has() == {"perl", "cpp", "gcc", wanted}


def test_a_removal_that_fails_does_not_stop_another_build(host: DebianHost) -> None:
    killed(["gcc"])
    status = host.dpkg / "status"
    before = status.read_text()
    status.write_text("nonsense")
    (remark,) = clean_up(LIMIT)
    assert "removing Debian packages for the build failed" in remark
    status.write_text(before)
    assert clean_up(LIMIT) == []
    assert host.has() == {"perl"}


def test_a_build_finishes_what_dpkg_was_doing_when_it_was_killed(host: DebianHost) -> None:
    host.interrupt()
    with installed(["gcc"], LIMIT):
        assert host.has() == {"perl", "tool", "cpp", "gcc"}
    assert host.has() == {"perl", "tool"}
    assert (host.root / "etc/tool.conf").read_text() == "as before\n"


def test_a_build_waits_for_a_dpkg_that_runs(host: DebianHost) -> None:
    found: list[set[str]] = []

    def build() -> None:
        with installed(["make"], LIMIT):
            found.append(host.has())

    thread = threading.Thread(target=build)
    with host.installing() as dpkg:
        thread.start()
        thread.join(2)
        assert thread.is_alive()
        dpkg.communicate(b"N\n")
    thread.join(30)
    assert found == [{"perl", "tool", "make"}]
