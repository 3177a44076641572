"""Hands the packages of a release from host to host, so that all of them have the same.

The first host of a platform makes the wheels, the control node keeps them, and the other hosts get them from there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from packaging.utils import canonicalize_name

from ..preflight.model.report import several
from . import cache


def name_of(*parts: str) -> str:
    """Return the name of what these texts define, such as a virtualenv: twelve hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def housed(wheelhouse: Path, platform: str, virtualenv: str) -> Path:
    """Return where a wheelhouse has the wheels of a virtualenv: in a directory for each platform.

    Args:
        wheelhouse: The directory.
        platform: The host's platform, as the script `virtualenvs` names it.
        virtualenv: Name of the virtualenv.
    """
    return wheelhouse / _short(platform) / f"{virtualenv}.tar"


def _short(platform: str) -> str:
    """Return a platform as the name of a directory, such as `debian-12-cpython-311-x86_64-linux-gnu`."""
    words = platform.replace('"', "").split()
    system = [word.partition("=")[2] for word in words if word.startswith(("ID=", "VERSION_ID="))]
    # The text comes from the host, which must not choose a path on the control node.
    return re.sub(r"\.\.|[^\w.+-]", "_", "-".join([*system, words[1]]))


def lacking(path: Path, pins: Iterable[str]) -> str:
    """Return an error message: the wheels of a virtualenv are not in a wheelhouse.

    Args:
        path: Where they should be.
        pins: The packages with their versions, as far as the requirements name them.
    """
    there = set()
    for tar in path.parent.glob("*.tar"):
        # Ignore incomplete copies.
        with suppress(tarfile.TarError), tarfile.open(tar) as opened:
            there |= {
                "==".join(canonicalize_name(part) for part in name.split("-")[:2])
                for name in opened.getnames()
            }
    missing = [
        pin
        for pin in pins
        if "==".join(canonicalize_name(part) for part in pin.split("==")) not in there
    ]
    return (
        f"celery_release_wheelhouse: {path.parent.parent} has no wheels of these requirements for {path.parent.name}"
        + (f". It lacks {several(missing, 5)}" if missing else "")
        + ". Run the playbook celery_fleet.core.wheelhouse on a host of this platform that reaches the package index. "
        "Nothing was changed."
    )


@contextmanager
def turn(virtualenv: str, scope: Iterable[str], host: str) -> Iterator[tuple[Path, bool]]:
    """Let one host at a time look for the wheels that the control node keeps for a week.

    Args:
        virtualenv: Name of the virtualenv.
        scope: Who may share its wheels: inventory, application and user.
        host: Name of the host.

    Yields:
        Where the wheels belong, and whether they are there; see `alone`.
    """
    path = cache.make(cache.directory("wheels")) / f"{name_of(virtualenv, *scope)}.tar"
    with alone(path, host) as there:
        yield path, there
    cache.sweep(path.parent)


@contextmanager
def alone(path: Path, host: str) -> Iterator[bool]:
    """Let one host at a time look for the wheels of a virtualenv, and the first one make them.

    Each host of a task has its own process, so a host that finds no wheels keeps the others waiting until it has
    stored them, or until it has failed. Then the others fail as well, instead of trying one after the other.

    Args:
        path: Where the wheels belong.
        host: Name of the host.

    Yields:
        Whether they are there. Only a host that finds none may write them.

    Raises:
        UserError: Another host has failed to make them, in this run.
    """
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    run = _run()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cache.used(path):
            fcntl.flock(lock, fcntl.LOCK_UN)
            yield True
            return
        failed = os.pread(lock, 1000, 0).decode().split(" ", 1)
        if failed[0] == run:
            raise UserError(
                f"it was not built here, because the same failed on {failed[1]}; see the message of that host"
            )
        os.ftruncate(lock, 0)
        try:
            yield False
        except UserError:
            os.pwrite(lock, f"{run} {host}".encode(), 0)
            raise
    finally:
        os.close(lock)


def _run() -> str:
    """Return a name for this run: its processes have the same parent, whose number is unique with its start time."""
    parent = os.getppid()
    try:
        # The 22nd field is the start time; the second one, in brackets, may contain blanks.
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        # A system without /proc, such as macOS: a later run with the same number is very unlikely.
        return str(parent)
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
