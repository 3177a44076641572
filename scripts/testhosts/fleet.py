"""A fleet of test hosts: its names and places, which are its own on this machine, and the commands that all kinds have.

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
SUITE = "bookworm"  # of hosts that name none
USER = "admin"


class FleetError(Exception):
    """What stops this script, in words for the person who started it."""


@dataclass(frozen=True)
class Fleet:
    """The names and places of one fleet.

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
        """The fleet of `scenario` in the checkout at `root`."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", scenario):
            raise FleetError(f"{scenario!r} is no name for a fleet: use a-z, 0-9, '_' and '-'")
        checkout = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        return cls(scenario, f"cf-{checkout}-{scenario}", root / ".state" / scenario)


def cache_directory() -> Path:
    """Where downloaded packages are kept, and nothing but packages."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-fleet"


def pip_cache() -> Path:
    """pip's cache, shared by all hosts of all fleets: pip makes it for concurrent use.

    There is none for Debian's packages: apt locks its cache, and fetching is a small part of installing.
    """
    return cache_directory() / "pip"


def write(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)


def add_commands(commands: Any, scenario: str, host: str, host_help: str) -> None:
    """Add `create` and `destroy` to a parser's commands: what they are given is the same for every kind of host."""
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
