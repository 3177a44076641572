"""Debian packages that are there for as long as a build needs them, with an apt-get of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import debian
from ansible_collections.celery_fleet.core.plugins.module_utils.release.debian import installed
from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import (
    BuildError,
    Limit,
)

# gcc needs cpp, and libc6 would be upgraded with it.
APT = """#!/bin/sh
echo "$*" >> {noted}
case "$(echo "$*" | sed 's/.*Timeout=300 //')" in
  *--simulate*) printf '%s' "$(cat {answer})" ;;
  update) exit 100 ;;
  *install*) test ! -e {broken} || exit 100 ;;
esac
"""
DPKG = """#!/bin/sh
cat {known} || exit 1
"""
ANSWER = """Reading package lists...
Inst libc6 [2.36-1] (2.36-2 Debian:12/stable [amd64])
Inst cpp (4:12.2.0-3 Debian:12.0/stable [amd64])
Inst gcc (4:12.2.0-3 Debian:12.0/stable [amd64])
Conf gcc (4:12.2.0-3 Debian:12.0/stable [amd64])
"""


class Apt:
    """What apt-get was asked to do."""

    def __init__(self, root: Path) -> None:
        self.noted, self.answer, self.broken = root / "noted", root / "answer", root / "broken"
        self.answer.write_text(ANSWER)
        self.known = root / "known"
        for name, text in (("apt-get", APT), ("dpkg-query", DPKG)):
            (root / name).write_text(text.format(**vars(self)))
            (root / name).chmod(0o755)

    def did(self) -> list[str]:
        words = self.noted.read_text().splitlines() if self.noted.exists() else []
        return [line.partition("Timeout=300 ")[2] for line in words]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[object]) -> Apt:
    path = {**debian._ENVIRONMENT, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    monkeypatch.setattr(debian, "_ENVIRONMENT", path)
    monkeypatch.setenv("PATH", path["PATH"])
    return Apt(tmp_path)


INSTALL = "install --no-install-recommends --no-upgrade -- gcc make"


def test_packages_that_were_not_there_go_again(apt: Apt) -> None:
    with installed(["gcc", "make"], Limit(20)):
        assert apt.did() == ["update", f"--simulate {INSTALL}", INSTALL]
    # Not the one that was upgraded.
    assert apt.did()[3:] == ["purge -- cpp gcc"]


def test_a_host_that_has_all_packages_needs_no_mirror(apt: Apt) -> None:
    apt.known.write_text("installed\ninstalled\n")
    with installed(["gcc", "make"], Limit(20)):
        pass
    assert apt.did() == []


def test_packages_that_are_there_stay(apt: Apt) -> None:
    apt.known.write_text("installed\nnot-installed\n")
    apt.answer.write_text("gcc is already the newest version (4:12.2.0-3).\n")
    with installed(["gcc", "make"], Limit(20)):
        pass
    assert apt.did() == ["update", f"--simulate {INSTALL}"]


def test_packages_go_after_a_build_that_failed(apt: Apt) -> None:
    with pytest.raises(ValueError, match="broken"), installed(["gcc", "make"], Limit(20)):
        raise ValueError("broken")
    assert apt.did()[-1] == "purge -- cpp gcc"


def test_an_installation_that_fails_leaves_nothing(apt: Apt) -> None:
    apt.broken.touch()
    with (
        pytest.raises(BuildError, match="installing Debian packages for the build failed"),
        installed(["gcc", "make"], Limit(20)),
    ):
        pass
    assert apt.did()[-1] == "purge -- cpp gcc"


def test_without_packages_apt_is_not_asked(apt: Apt) -> None:
    with installed([], Limit(20)):
        pass
    assert apt.did() == []
