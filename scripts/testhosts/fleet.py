"""A fleet of test hosts: its names and directories, which are unique on this machine, and the shared commands.

Only the standard library is used.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"  # the default
USER = "admin"


class HostsError(Exception):
    """A reason why the script can't continue; the message is for users."""


@dataclass(frozen=True)
class Fleet:
    """The names and directories of one fleet.

    Attributes:
        scenario: `demo`, or the name of a Molecule scenario.
        name: prefix of its containers and name of its network; unique on this machine.
        state: directory of its keys and of `fleet.json`.
    """

    scenario: str
    name: str
    state: Path

    @classmethod
    def of(cls, scenario: str, root: Path = ROOT) -> Fleet:
        """Return the fleet of `scenario` in the checkout at `root`."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", scenario):
            raise HostsError(f"{scenario!r} is not a name for a fleet: use a-z, 0-9, '_' and '-'")
        checkout = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        return cls(scenario, f"cf-{checkout}-{scenario}", root / ".state" / scenario)


def cache_directory() -> Path:
    """Return the directory of downloaded packages; it holds nothing else."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-fleet"


def pip_cache() -> Path:
    """Return pip's cache, which all hosts of all fleets share: pip supports concurrent use.

    There is no such cache for Debian's packages: apt locks its cache, and downloading is a small part of installing.
    """
    return cache_directory() / "pip"


def write(path: Path, text: str) -> None:
    """Write a file atomically; only its owner can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)


def add_commands(commands: Any, scenario: str, host: str, host_help: str) -> None:
    """Add `create` and `destroy` to a parser's commands; their arguments are the same for every kind of host."""
    for name in ("create", "destroy"):
        command = commands.add_parser(name)
        command.add_argument("--scenario", required=True, help=scenario)
        command.add_argument(
            "--inventory",
            required=True,
            type=Path,
            help="the inventory source with the connections",
        )
        if name == "create":
            command.add_argument("hosts", nargs="+", metavar=host, help=host_help)
