"""Installs Debian packages that are only needed while Python packages are built."""

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
    # dpkg refuses to run if the directories of root's programs are missing.
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C",
    # needrestart would restart services of the host.
    "NEEDRESTART_SUSPEND": "1",
}

# In a simulation, apt lists a new package without an old version in brackets after its name.
_NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)


@contextmanager
def installed(names: Sequence[str], limit: Limit) -> Iterator[None]:
    """Install packages for a while; at the end, remove the new ones, including their dependencies.

    Args:
        names: Names of the packages.
        limit: How long each call of apt may take.

    Raises:
        BuildError: apt failed.
    """
    if not names or _there(names, limit):
        yield
        return
    install = ("install", "--no-install-recommends", "--no-upgrade", "--", *names)
    # If this fails, installing reports what is missing.
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
        return False  # dpkg does not know one of them
    return {"installed"} == set(answer.split())


def _apt(limit: Limit, *words: str) -> str:
    what = f"{'removing' if 'purge' in words else 'installing'} Debian packages for the build"
    # A host that has just booted may be busy upgrading itself.
    command = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=300", *words]
    return run(command, limit, what, user_of("root"), environment=_ENVIRONMENT)
