"""A directory that stands for a host with Debian packages: the real apt and dpkg work on it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import debian

from tests.programs import required

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
    # It has the file /etc/tool.conf.
    "tool": "",
}
APT = """
Dir "{root}";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Etc::trusted "/dev/null";
APT::Architecture "amd64";
APT::Sandbox::User "root";
DPkg::Path "/usr/sbin:/usr/bin:/sbin:/bin";
"""
DPKG = "root={root}\nlog=/dev/null\nforce-not-root\n"


class DebianHost:
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
        configuration.write_text(APT.format(root=self.root))
        (directory / ".dpkg.cfg").write_text(DPKG.format(root=self.root))
        self.environment = {
            **debian._ENVIRONMENT,
            "APT_CONFIG": str(configuration),
            "DPKG_ADMINDIR": str(self.dpkg),
            "HOME": str(directory),
        }
        self._fill(directory / "packages")

    def _fill(self, packages: Path) -> None:
        self.mirror.mkdir()
        index = ""
        for name, relation in MIRROR.items():
            scratch = packages / name
            (scratch / "DEBIAN").mkdir(parents=True)
            control = (
                f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\n"
                f"Description: {name}\n" + (f"{relation}\n" if relation else "")
            )
            (scratch / "DEBIAN/control").write_text(control)
            if name == "broken":
                (scratch / "DEBIAN/postinst").write_text("#!/bin/sh\n")
                (scratch / "DEBIAN/postinst").chmod(0o755)
            if name == "tool":
                (scratch / "etc").mkdir()
                (scratch / "etc/tool.conf").write_text("as packaged\n")
                (scratch / "DEBIAN/conffiles").write_text("/etc/tool.conf\n")
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
        """Return the packages that are installed completely."""
        form = "${db:Status-Status} ${Package}\n"
        command = [required("dpkg-query"), "--show", f"--showformat={form}"]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True)
        found = (line.split() for line in done.stdout.decode().splitlines())
        return {words[1] for words in found if words[0] == "installed"}

    @contextmanager
    def installing(self) -> Iterator[subprocess.Popen[bytes]]:
        """Let dpkg install the package `tool`, until it asks what to do with a file that was there before."""
        (self.root / "etc/tool.conf").write_text("as before\n")
        command = [required("dpkg"), "--install", self.mirror / "tool.deb"]
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, env=self.environment, **options) as dpkg:
            assert dpkg.stdout is not None
            shown = b""
            while b"[default=N]" not in shown:
                shown += os.read(dpkg.stdout.fileno(), 1000) or pytest.fail(shown.decode())
            yield dpkg

    def interrupt(self) -> None:
        """Kill dpkg while it installs `tool`, as a power cut or the kernel does."""
        with self.installing() as dpkg:
            dpkg.kill()
        with pytest.raises(subprocess.CalledProcessError) as refused:
            self.apt("install", "make")
        assert b"dpkg was interrupted" in refused.value.stderr
