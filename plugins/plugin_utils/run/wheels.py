"""Hands the packages of a release from host to host, so that all of them have the same.

The first host of a platform makes the wheels, the control node keeps them, and the other hosts get them from there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import cache


def name_of(digest: str, circumstances: Iterable[str], release: str) -> str:
    """Return the name of a virtualenv, twelve hexadecimal digits.

    Args:
        digest: Hash of the requirements.
        circumstances: What else decides which packages these are: the host's platform, as the script `virtualenvs`
            names it, and the indexes.
        release: Name of the release if a package is built from its source; else empty.
    """
    return hashlib.sha256("\0".join([digest, *circumstances, release]).encode()).hexdigest()[:12]


@contextmanager
def turn(virtualenv: str, scope: Iterable[str], host: str) -> Iterator[tuple[Path, bool]]:
    """Let one host at a time look for the wheels of a virtualenv, and the first one make them.

    Each host of a task has its own process, so a host that finds no wheels keeps the others waiting until it has
    stored them, or until it has failed. Then the others fail as well, instead of trying one after the other.

    Args:
        virtualenv: Name of the virtualenv.
        scope: Who may share its wheels: inventory, application and user.
        host: Name of the host.

    Yields:
        Where the wheels belong, and whether they are there. Only who finds none may write them.

    Raises:
        UserError: Another host has failed to make them, in this run.
    """
    directory = cache.make(cache.directory("wheels"))
    name = name_of(virtualenv, scope, "")
    path = directory / f"{name}.tar"
    lock = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    run = _run()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cache.used(path):
            fcntl.flock(lock, fcntl.LOCK_UN)
            yield path, True
            return
        failed = os.pread(lock, 1000, 0).decode().split(" ", 1)
        if failed[0] == run:
            raise UserError(
                f"it was not built here, because the same failed on {failed[1]}; see the message of that host"
            )
        os.ftruncate(lock, 0)
        try:
            yield path, False
        except UserError:
            os.pwrite(lock, f"{run} {host}".encode(), 0)
            raise
        cache.sweep(directory)
    finally:
        os.close(lock)


def _run() -> str:
    """Return a name of this run: all its processes have the same parent, and its number may be used again later."""
    parent = os.getppid()
    # The 22nd field is when it started; the second one, in brackets, may contain blanks.
    started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{parent}/{started}"


def differences(hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which hosts have other versions in a virtualenv than the first of them; empty if none has.

    On another platform, it is another virtualenv, for which a lock may name other versions.

    Args:
        hosts: Hosts of the release.
        variables: Ansible's `hostvars`, with the results of the action `release`.
    """
    seen: dict[tuple[object, str], tuple[str, str]] = {}
    found = []
    for host in hosts:
        result = variables[host].get("__celery_release_built") or {}
        for package in result.get("packages") or []:
            key = (result.get("virtualenv"), package["name"])
            first, version = seen.setdefault(key, (host, package["version"]))
            if version != package["version"]:
                own = package["version"]
                found.append(f"{package['name']} is {version} on {first} and {own} on {host}")
    return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
