"""Installs Debian packages for as long as packages of Python are built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import (
    CommandFailed,
    Limit,
    run,
    user_of,
)

_ENVIRONMENT = {
    # dpkg looks for programs of root in it.
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C",
    # No process of the host is to restart because of them.
    "NEEDRESTART_SUSPEND": "1",
}

# In a simulation, a package that would be upgraded has its old version in brackets behind its name.
_NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)


@contextmanager
def installed(names: Sequence[str], limit: Limit) -> Iterator[None]:
    """Have packages installed; at the end, remove those that were not there before, also those that they needed.

    Args:
        names: Names of the packages.
        limit: How long apt may take, each time.

    Raises:
        BuildError: apt failed.
    """
    if not names or _there(names, limit):
        yield
        return
    install = ("install", "--no-install-recommends", "--no-upgrade", "--", *names)
    # If it fails, the installation says what is missing.
    with suppress(CommandFailed):
        _apt(limit, "update")
    new = _NEW.findall(_apt(limit, "--simulate", *install))
    try:
        if new:
            _apt(limit, *install)
        yield
    finally:
        if new:
            _apt(limit, "purge", "--", *new)


def _there(names: Sequence[str], limit: Limit) -> bool:
    ask = ("dpkg-query", "--show", "--showformat=${db:Status-Status}\n", "--", *names)
    try:
        answer = run(ask, limit, "asking dpkg", user_of("root"), environment=_ENVIRONMENT)
    except CommandFailed:
        return False  # it does not know one of them
    return {"installed"} == set(answer.split())


def _apt(limit: Limit, *words: str) -> str:
    what = f"{'removing' if 'purge' in words else 'installing'} Debian packages for the build"
    # A host that has just booted may be busy upgrading itself.
    command = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=300", *words]
    return run(command, limit, what, user_of("root"), environment=_ENVIRONMENT)
