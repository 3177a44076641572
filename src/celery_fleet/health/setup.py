"""Read from ``health.json`` what to check on this host, and the thresholds; standard library only."""

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

#: Files of the application's environment, in its directory: one that every user may read, and one only for root.
PUBLIC, SECRET = "exec.env", "credentials/exec.env"

#: Names of thresholds for values that get worse as they get lower.
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
    """A check can't be done; the message is one line."""


@dataclass(frozen=True)
class Worker:
    """A worker in the inventory."""

    unit: str
    host: str
    pool: str = "prefork"


@dataclass(frozen=True)
class Setup:
    """What to check on this host: the content of ``/etc/celery-fleet/<app>/health.json``.

    Attributes:
        fleet: Whether this host also checks what belongs to the whole fleet: all workers, and the queues.
        thresholds: Name -> `warning` and `bad`, either of which may be None for never. `queues` is a mapping of the
            same kind, by the name of a queue.
        units: Units of this host, except for those of workers and beat.
        workers: Workers of the whole fleet, by node name.
        servers: Host and port of `broker`, `results` and `cache`, if there is one; for `cache`, and for hosts without
            the operator's credentials.
        certificates: Files with the certificates that the fleet brings to this host.
        site_certificate: That of the web site, which the fleet does not bring; empty without one.
        beat: Beat's unit, its runtime directory, and the seconds between two looks at its schedule; only on its host.
        login: The settings with the login at Redis; by default the operator's.
        backup: Seconds between two backups of Redis on this host; 0 if it makes none.
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
    site_certificate: str = ""
    on_change: tuple[str, ...] = ()
    login: Path | None = None
    backup: float = 0.0

    @cached_property
    def operator(self) -> Mapping[str, Any] | None:
        """The settings with the login at Redis: the operator's, or those of `login`. None if this host lacks them."""
        path = self.login or self.directory / "credentials" / "operator.json"
        try:
            found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def credentials(self) -> Mapping[str, Any]:
        """Return `operator`.

        Raises:
            CheckError: This host lacks it.
        """
        if self.operator is None:
            raise CheckError("this host lacks the operator's credentials; run site.yml")
        return self.operator

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The application's environment; empty if this host does not run the application."""
        return self._variables(PUBLIC) | self._variables(SECRET)

    def _variables(self, name: str) -> dict[str, str]:
        with contextlib.suppress(FileNotFoundError):
            return environment((self.directory / name).read_text(encoding="utf-8"))
        return {}

    def secrets(self) -> set[str]:
        """All values that no message may contain."""
        secret = self._variables(SECRET)
        found = secrets_in(dict(self.operator or {})) | secrets_in(secret)
        for value in secret.values():
            # A message of one line may contain one of a key's.
            found.update((value, *value.splitlines()))
        for url in self.databases().values():
            found.update(health_database.secrets_of(url))
        return found

    def databases(self) -> dict[str, str]:
        """Return the variables of the application's environment that are URLs of databases."""
        return {
            name: value
            for name, value in self.environment.items()
            if health_database.scheme_of(value)
        }

    @property
    def release(self) -> Path:
        """The current release; if there is none yet, one that a unit runs.

        Raises:
            CheckError: This host has no release.
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
        """Return the thresholds of a value."""
        found: Mapping[str, float | None] = self.thresholds.get(name) or {}
        return found

    def state_of(self, name: str, value: float) -> str:
        """Return the state that a value means."""
        return state_of(value, self.threshold(name), low=name in LOW)


def environment(text: str) -> dict[str, str]:
    """Read the variables of an environment file. Each value is in double quotes, as the control node writes them."""
    return {
        name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        for name, value in _ASSIGNMENT.findall(text)
    }


def state_of(value: float, threshold: Mapping[str, float | None], *, low: bool = False) -> str:
    """Return the state of a value by its thresholds. With `low`, lower values are worse."""
    for state in (BAD, WARNING):
        bound = threshold.get(state)
        if bound is not None and (value <= bound if low else value >= bound):
            return state
    return GOOD


def deployed(setup: Setup) -> dict[str, Any]:
    """Return the application's module, the units and the workers in `cli.json`; empty if it can't be read.

    A run writes that file before it changes any unit. A worker that has left the inventory is about to be stopped, so
    it must not be reported as missing.
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
    """Format a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit in ("B", "kB") else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError
