"""Where finished backups go: a directory, a target of rsync, or a command of the user's. Only the standard library.

A backup is a directory, ``<app>-<UTC time>``, with ``SHA256SUMS`` and the files that it lists. A target has a backup
only when it has ``SHA256SUMS``, which arrives last. So one that was interrupted is never taken for a good one, and
never removes a good one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

SUMS = "SHA256SUMS"
#: Seconds without progress after which rsync gives up.
_PATIENCE = 60
_TIME = r"\d{8}T\d{6}Z"
# In a list of rsync: the directories, and those that have the sums.
_DIRECTORIES = re.compile(r"^d.* (\S+)$", re.MULTILINE)
_LISTED = re.compile(r" (\S+)/" + re.escape(SUMS) + "$", re.MULTILINE)


class TargetError(Exception):
    """A backup can't be stored; the message is one line."""


class BackupTarget(Protocol):
    """Stores backups."""

    def put(self, backup: Path) -> None:
        """Store a backup, whole or not at all.

        Raises:
            OSError, TargetError: It can't be stored.
        """

    def prune(self, app: str, keep: int, stored: str) -> list[str]:
        """Remove all but an application's newest backups, and what interrupted ones have left.

        Args:
            app: The application's name.
            keep: How many backups stay.
            stored: Name of the backup that was just stored. It is the newest: others with later times were made while
                the clock was ahead, and count as the oldest.

        Returns:
            The names of the backups.

        Raises:
            OSError, TargetError: They can't be removed.
        """


def surplus(app: str, names: Sequence[str], keep: int, stored: str) -> list[str]:
    """Return the names of an application's backups that are older than its newest ones; never the one just stored.

    Those with later times than that one count as the oldest. Otherwise they would stay for good in place of good ones.
    """
    own = sorted(
        (name for name in names if _is_own(app, name)), key=lambda name: (name <= stored, name)
    )
    return [name for name in own if name != stored][: max(0, len(own) - keep)]


def _is_own(app: str, name: str) -> bool:
    return re.fullmatch(f"{re.escape(app)}-{_TIME}", name) is not None


class DirectoryTarget:
    """A directory on this host, where something else is mounted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, backup: Path) -> None:
        """Copy it under a hidden name, flush it to the disk, then give it its name."""
        make = f"install --directory --owner={_user()} --mode=0700 {self._path}"
        if not self._path.is_dir():
            raise TargetError(f"{self._path} is not there: mount it, or make it: {make}")
        if not os.access(self._path, os.W_OK | os.X_OK):
            raise TargetError(f"{self._path} can't be written to by {_user()}: {make}")
        part = self._path / f".{backup.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(0o700)
            for file in backup.iterdir():
                with open(file, "rb") as source, open(part / file.name, "xb") as copy:
                    os.fchmod(copy.fileno(), 0o600)
                    shutil.copyfileobj(source, copy, 1 << 20)
                    copy.flush()
                    os.fsync(copy.fileno())
            _flush(part)
            part.rename(self._path / backup.name)
            _flush(self._path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def prune(self, app: str, keep: int, stored: str) -> list[str]:
        """Remove them, each first under a hidden name, so that half of one is never taken for a backup."""
        there = [entry.name for entry in os.scandir(self._path)]
        whole = [name for name in there if (self._path / name / SUMS).is_file()]
        gone = surplus(app, whole, keep, stored)
        for name in gone:
            (self._path / name).rename(self._path / f".{name}.part")
        left = re.compile(rf"\.{re.escape(app)}-{_TIME}\.part")
        for name in [*there, *(f".{name}.part" for name in gone)]:
            if left.fullmatch(name):
                shutil.rmtree(self._path / name, ignore_errors=True)
        return gone


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _flush(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RsyncTarget:
    """A target of rsync: `host:path` by SSH, or `rsync://host/module/path`.

    Args:
        address: The target.
        shell: The command line of ssh; empty for a target without SSH.
        scratch: An empty directory for the program's own use.
    """

    def __init__(self, address: str, shell: Sequence[str], scratch: Path) -> None:
        self._address = f"{address.rstrip('/')}/"
        self._shell = ["--rsh", " ".join(shell)] if shell else []
        self._scratch = scratch

    def put(self, backup: Path) -> None:
        """Send its files, and then SHA256SUMS; if that fails, remove what has arrived, for example on a full disk."""
        try:
            for only in ([f"--exclude=/{backup.name}/{SUMS}"], []):
                self._rsync("--recursive", "--times", "--fsync", *only, str(backup), self._address)
        except TargetError:
            with contextlib.suppress(TargetError):
                self._remove([backup.name])
            raise

    def prune(self, app: str, keep: int, stored: str) -> list[str]:
        """Remove them by name."""
        asked = [f"--include=/{app}-*/", f"--include=/{app}-*/{SUMS}", "--exclude=*"]
        found = self._rsync("--list-only", "--recursive", *asked, self._address)
        whole = _LISTED.findall(found)
        gone = surplus(app, whole, keep, stored)
        own = [name for name in _DIRECTORIES.findall(found) if _is_own(app, name)]
        self._remove([*gone, *(name for name in own if name not in whole)])
        return gone

    def _remove(self, names: Sequence[str]) -> None:
        """Have rsync delete what it includes and what the empty source directory lacks."""
        if names:
            empty = self._scratch / "empty"
            empty.mkdir(exist_ok=True)
            named = [f"--include=/{name}/***" for name in names]
            self._rsync(
                "--recursive", "--delete", *named, "--exclude=*", f"{empty}/", self._address
            )

    def _rsync(self, *words: str) -> str:
        return run(["rsync", f"--timeout={_PATIENCE}", *self._shell, *words], os.environ)


class CommandTarget:
    """A command of the user's, which stores a backup and decides how many it keeps.

    Args:
        argv: Its command line. The path of the backup is added to it.
        environ: Its environment.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self._argv = list(argv)
        self._environ = environ

    def put(self, backup: Path) -> None:
        """Run the command."""
        run([*self._argv, str(backup)], self._environ)

    def prune(self, app: str, keep: int, stored: str) -> list[str]:
        """Remove nothing."""
        return []


def run(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Run a program and return its output, which also goes to the journal if it fails.

    Raises:
        TargetError: It failed or is missing; the message has the last line of its output.
    """
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise TargetError(f"{argv[0]} can't be run: {error.strerror}") from None
    if done.returncode:
        print(done.stdout, end="", flush=True)
        ended = f"was killed by signal {-done.returncode}" if done.returncode < 0 else ""
        ended = ended or f"ended with status {done.returncode}"
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise TargetError(f"{argv[0]} {ended}: {last}")
    return done.stdout
