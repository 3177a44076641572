"""Runs commands of a build as the application's user, and writes the notes that complete what was built."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

# From <linux/prctl.h>.
_PR_SET_CHILD_SUBREAPER = 36

# All that other users' processes get: root's environment may have passwords.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}


class BuildError(Exception):
    """The release can't be built. The message says what is wrong, where, and what to do."""


class CommandFailed(BuildError):  # noqa: N818 - what a program says, not an error of ours
    """A program failed; `output` is everything that it printed."""

    def __init__(self, what: str, output: str) -> None:
        """Set the message: what failed, with its last lines."""
        super().__init__(f"{what} failed; its last lines:\n{tail(output)}")
        self.output = output


@dataclass(frozen=True)
class Limit:
    """Seconds that a step of a build may take, and the variable that sets them."""

    seconds: float
    variable: str = "celery_release_timeout"


@dataclass(frozen=True)
class Build:
    """A release to build; the fields are the options of the module `release`."""

    id: str
    archive: str
    root: str
    directory: str
    requirements: str
    app: str
    python: str
    runtime: str
    user: str
    virtualenv: str
    local: bool = False
    wheels: str = ""
    hand_over: str = ""
    index: dict[str, Any] = field(default_factory=dict)
    build_packages: list[str] = field(default_factory=list)
    demands: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    secret_environment: dict[str, Any] = field(default_factory=dict)
    keep: int = 5
    timeout: float = 900.0
    import_timeout: float = 120.0
    compile_timeout: float = 900.0

    @property
    def path(self) -> Path:
        """Return the directory of the release."""
        return Path(self.root) / "releases" / self.id

    @property
    def code(self) -> Path:
        """Return the working directory of its processes."""
        return Path(os.path.normpath(self.path / "source" / self.directory))


def tail(text: str) -> str:
    """Return the last 20 lines of a program's output, indented."""
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-20:])


def user_of(name: str) -> pwd.struct_passwd:
    """Return the entry of a Unix user who has to exist."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise BuildError(
            f"there is no user {name} on this host; run the role celery_runtime first"
        ) from None


@contextlib.contextmanager
def leaving_no_process() -> Iterator[None]:
    """End all processes that a command of the build leaves behind, also those that have left its session.

    Otherwise they could go on writing to files that they have open when root already owns these.
    """
    others = _children()
    _adopt(True)
    try:
        yield
    finally:
        # A process becomes a child of this one when its parent ends, so without children there is no descendant either.
        while left := _children() - others:
            for process in left:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
        _adopt(False)


def _adopt(wanted: bool) -> None:
    """Let the kernel make this process the parent of descendants that have lost theirs, or not any more."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) != 0:
        raise BuildError(f"prctl: {os.strerror(ctypes.get_errno())}")


def _children() -> set[int]:
    found = set()
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, errors="replace") as stream:
            # The second field, in brackets, is the program's name and may contain anything.
            if int(stream.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(path.split("/")[2]))
    return found


def run(
    command: Sequence[str],
    limit: Limit,
    what: str,
    user: pwd.struct_passwd,
    directory: str = "/",
    environment: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> str:
    """Run a command as the build's user, without Ansible's environment; return its output, unless `stdout` takes it."""
    try:
        with leaving_no_process():
            done = subprocess.run(
                list(command),
                env={**ENVIRONMENT, **(environment or {})},
                cwd=directory,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.STDOUT if stdout == subprocess.PIPE else subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=limit.seconds,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"{what} took more than {limit.seconds:.0f} s; raise {limit.variable}"
        ) from None
    except FileNotFoundError as missing:
        raise BuildError(f"{what}: {missing.filename} is not on this host") from None
    if done.returncode != 0:
        raise CommandFailed(what, done.stdout or done.stderr or "")
    return str(done.stdout or "")


def unpack(
    archive: str, target: Path, limit: Limit, what: str, user: pwd.struct_passwd, *options: str
) -> None:
    """Unpack a tar archive, which only root can open, into a directory of the user.

    Args:
        archive: Path of the archive.
        target: The directory.
        limit: How long it may take.
        what: What is done, for an error message.
        user: Who unpacks it.
        options: More options of tar, such as `--gzip`.
    """
    # Don't use tarfile: its filters against unsafe names came with Python 3.11.4, and Debian 12 has 3.11.2.
    # As root, tar would otherwise keep the archive's owners and modes, setuid included.
    options = ("--no-same-owner", "--no-same-permissions", *options)
    command = ["tar", "--extract", *options, "--file", "-", "--directory", str(target)]
    with open(archive, "rb") as stream:
        run(command, limit, what, user, stdin=stream)


def unpack_source(build: Build, target: Path, limit: Limit, user: pwd.struct_passwd) -> None:
    """Unpack the source into a directory of the user."""
    unpack(build.archive, target, limit, "unpacking the source", user, "--gzip")


def write_note(
    directory: Path, name: str, note: Mapping[str, Any], limit: Limit, user: pwd.struct_passwd
) -> None:
    """Write the note that makes a directory complete, once everything in it is on disk.

    A host may lose power at any time. A note that outlives the files beside it would keep them from being built again.
    """
    run(["sync", "--file-system", str(directory)], limit, "writing to disk", user)
    fresh = directory / f".{name}"
    with fresh.open("w") as stream:
        stream.write(json.dumps(note, indent=1, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, directory / name)
