"""What is checked on this host, and against which bounds."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from celery_fleet.common.redact import secrets_in
from celery_fleet.health import database as health_database
from celery_fleet.health.result import BAD, GOOD, WARNING

FORMAT = 1

#: Files of the application's environment, below its directory: a part for everybody and one for root alone.
ENVIRONMENT = ("exec.env", "credentials/exec.env")

#: Names of thresholds of which less is worse.
LOW = frozenset(
    (
        *("disk_free_percent", "disk_free_mb", "inodes_free_percent"),
        *("memory_available_percent", "certificate_days"),
    )
)

_ASSIGNMENT = re.compile(
    r'^([A-Za-z_][A-Za-z0-9_]*)="((?:\\.|[^"\\])*)"$', re.MULTILINE | re.DOTALL
)


class CheckError(Exception):
    """Why a check can't be done, in one line."""


@dataclass(frozen=True)
class Worker:
    """A worker of the inventory."""

    unit: str
    host: str
    pool: str = "prefork"


@dataclass(frozen=True)
class Setup:
    """What is checked on this host: ``/etc/celery-fleet/<app>/health.json``.

    Attributes:
        fleet: Whether the host looks at what belongs to the whole fleet: all workers, the queues.
        thresholds: Name -> `warning` and `bad`, either of which may be None for never; `queues`: name of a queue ->
            the same.
        units: This host's, but for those of workers and beat.
        workers: Of the whole fleet, by node name.
        servers: `broker` and `results` with host and port, for hosts without an operator's credentials.
        beat: Its unit, its runtime directory and the seconds between two looks at its schedule; on its host alone.
        clock: Whether the host's clock is compared with the broker's.
    """

    app: str
    host: str
    user: str
    interval: float
    checks: tuple[str, ...]
    thresholds: Mapping[str, Any]
    directory: Path
    root: Path
    runtime: Path
    fleet: bool = False
    units: tuple[str, ...] = ()
    workers: Mapping[str, Worker] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ca: str = ""
    client: Mapping[str, str] = field(default_factory=dict)
    beat: Mapping[str, Any] | None = None
    paths: tuple[str, ...] = ("/",)
    logs: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    on_change: tuple[str, ...] = ()

    @cached_property
    def operator(self) -> Mapping[str, Any] | None:
        """The operator's settings, where this host has them."""
        path = self.directory / "credentials" / "operator.json"
        try:
            found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The application's environment, where this host runs it."""
        found: dict[str, str] = {}
        for name in ENVIRONMENT:
            with contextlib.suppress(FileNotFoundError):
                found |= environment((self.directory / name).read_text(encoding="utf-8"))
        return found

    def secrets(self) -> set[str]:
        """All that must not be said."""
        found = secrets_in(dict(self.operator or {}))
        for url in self.databases().values():
            found.update(health_database.secrets_of(url))
        return found

    def databases(self) -> dict[str, str]:
        """The variables of the application's environment that are URLs of databases."""
        return {
            name: value
            for name, value in self.environment.items()
            if health_database.scheme_of(value)
        }

    @property
    def release(self) -> Path:
        """A release that this host has: the current one, or before there is one what a unit runs.

        Raises:
            CheckError: There is none.
        """
        for link in (self.root / "current", *sorted((self.root / "pins").glob("*"))):
            if link.name == "flower":
                continue
            with contextlib.suppress(OSError):
                found = link.resolve(strict=True)
                if os.access(found / "venv" / "bin" / "python", os.X_OK):
                    return found
        raise CheckError(f"there is no release in {self.root}; run site.yml")

    def threshold(self, name: str) -> Mapping[str, float | None]:
        """The two bounds of a name."""
        found: Mapping[str, float | None] = self.thresholds.get(name) or {}
        return found

    def judge(self, name: str, value: float) -> str:
        """The state that a value means."""
        return judge(value, self.threshold(name), low=name in LOW)


def environment(text: str) -> dict[str, str]:
    """The variables of an environment file as the control side writes it: each value in double quotes."""
    return {
        name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        for name, value in _ASSIGNMENT.findall(text)
    }


def judge(value: float, threshold: Mapping[str, float | None], *, low: bool = False) -> str:
    """Whether a value has come to a bound: up to it, or where less is worse (`low`) down to it."""
    for state in (BAD, WARNING):
        bound = threshold.get(state)
        if bound is not None and (value <= bound if low else value >= bound):
            return state
    return GOOD


def known(setup: Setup) -> dict[str, Any]:
    """What `cli.json`, which a run writes before anything moves, says of the application, units and workers.

    A worker that the inventory no longer has is stopped soon after, and must not be missed.
    """
    try:
        found = json.loads((setup.directory / "cli.json").read_text(encoding="utf-8"))
        return {
            "module": str(found.get("module", "")),
            "units": list(found["units"]),
            "workers": dict(found["workers"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def size(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit in ("B", "kB") else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError
