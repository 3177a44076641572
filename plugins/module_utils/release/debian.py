"""Installs Debian packages for as long as packages of Python are built.

Applications on the same host may build at the same time. So each build holds a lock that it shares with the others, and
the last one removes what all of them have installed. `RECORD` lists these packages before apt installs them. If a build
is killed, the kernel releases its lock, and the next build on the host removes what is listed.

These packages are marked as installed automatically. So apt keeps one that a user has installed since, or that another
package needs.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import root_lock
from .process import BuildError, CommandFailed, Limit, run, user_of

#: Lists the packages that are only there for builds; the script `facts` reads it, too.
RECORD = Path("/var/lib/celery-fleet/build-packages")

# dpkg's journal; files with numbers as names are there while it runs, and after it was killed.
_JOURNAL = Path("/var/lib/dpkg/updates")

# It is gone after the next boot. dpkg has its own locks.
_LOCK = Path("/run/celery-fleet-packages.lock")

_ENVIRONMENT = {
    # dpkg refuses to run if the directories of root's programs are missing.
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C",
    # No process of the host is to restart because of them.
    "NEEDRESTART_SUSPEND": "1",
}

# In a simulation, a package that would be upgraded has its old version in brackets behind its name.
_NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)
_UNNEEDED = re.compile(r"^Remv (\S+) ", re.MULTILINE)

# A package that another one only recommends or suggests is not needed: perl suggests make.
_STRICT = tuple(
    f"--option=APT::AutoRemove::{kind}Important=false" for kind in ("Recommends", "Suggests")
)


@contextmanager
def installed(names: Sequence[str], limit: Limit) -> Iterator[None]:
    """Have packages installed; at the end, remove those that only builds need, unless another build still runs.

    Args:
        names: Names of the packages.
        limit: How long apt may take, each time.

    Raises:
        BuildError: apt failed.
    """
    if not names:
        yield
        return
    with _lock() as lock:
        try:
            _install(names, limit)
            yield
        finally:
            _remove_recorded(lock, limit)


def clean_up(limit: Limit) -> list[str]:
    """Remove the packages of a build that was killed; return a remark if apt can't."""
    if not RECORD.exists():
        return []
    try:
        with _lock() as lock:
            _remove_recorded(lock, limit)
    except BuildError as error:
        return [f"an earlier build has left Debian packages: {error}"]
    return []


@contextmanager
def _lock() -> Iterator[int]:
    """Share the lock with other builds; wait while one removes packages."""
    with root_lock.held(_LOCK, fcntl.LOCK_SH) as lock:
        yield lock


def _install(names: Sequence[str], limit: Limit) -> None:
    there = _installed(limit)
    # apt would count a package that is there as asked for, even if another build has installed it.
    missing = [name for name in names if name not in there]
    if not missing:
        return
    # A package that conflicts with one of the host's must not replace it.
    install = ("install", "--no-install-recommends", "--no-upgrade", "--no-remove", "--mark-auto")
    # If it fails, the installation says what is missing.
    with suppress(CommandFailed):
        _apt(limit, "update")
    new = _NEW.findall(_apt(limit, "--simulate", *install, "--", *missing))
    if not new:
        return
    RECORD.parent.mkdir(mode=0o755, exist_ok=True)
    with RECORD.open("a") as stream:
        stream.write("".join(f"{name}\n" for name in new))
        stream.flush()
        os.fsync(stream.fileno())
    _apt(limit, *install, "--", *missing)


def _installed(limit: Limit) -> set[str]:
    ask = ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n")
    answer = run(ask, limit, "asking dpkg", user_of("root"), environment=_ENVIRONMENT)
    found = (line.split() for line in answer.splitlines())
    return {words[1] for words in found if words[0] == "installed"}


def _remove_recorded(lock: int, limit: Limit) -> None:
    """Remove the packages that only builds need, unless another build holds the lock, too."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # the last one removes them
    with suppress(FileNotFoundError):
        recorded = set(RECORD.read_text().split())
        unneeded = _UNNEEDED.findall(_apt(limit, "--simulate", *_STRICT, "autoremove"))
        if gone := sorted(recorded.intersection(unneeded)):
            _apt(limit, "purge", "--no-auto-remove", "--", *gone)
        RECORD.unlink()
        # Nothing else of ours may be on a host that only makes wheels.
        with suppress(OSError):
            RECORD.parent.rmdir()


def _apt(limit: Limit, *words: str) -> str:
    # apt refuses to work after a dpkg that was killed. While another dpkg runs, this one fails, and apt waits.
    if any(_JOURNAL.glob("[0-9]*")):
        finish = ("dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
        with suppress(CommandFailed):
            run(finish, limit, "dpkg --configure -a", user_of("root"), environment=_ENVIRONMENT)
    removes = not {"purge", "autoremove"}.isdisjoint(words)
    what = f"{'removing' if removes else 'installing'} Debian packages for the build"
    # A host that has just booted may be busy upgrading itself.
    command = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=300", *words]
    return run(command, limit, what, user_of("root"), environment=_ENVIRONMENT)
