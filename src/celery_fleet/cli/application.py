"""What a host knows of its applications: ``/etc/celery-fleet/<app>/cli.json``, and the credentials beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery_fleet.cli.errors import USAGE, CommandError, need_root
from celery_fleet.common import client_certificate

CONFIGURATION = Path("/etc/celery-fleet")
FORMAT = 1


@dataclass(frozen=True)
class Instance:
    """One Redis instance of the application."""

    kind: str
    host: str
    port: int
    unit: str
    acl: Path
    here: bool


@dataclass(frozen=True)
class Application:
    """An application on this host.

    Attributes:
        host: The host's name in the inventory.
        runtime: Directory of the package that the host's processes run with.
        units: The application's units on this host.
        hosts: All hosts of the fleet with their groups.
        workers: Node name -> queues, of all hosts.
        queues: All queues that the inventory names.
        client: `certificate` and `key` that are shown to Redis, where it asks for them.
        schedule: The file in which the running beat says what it has loaded; it is on beat's host alone.
        log_directory: Where logs lie that are no journal's; None where they are in the journal.
    """

    name: str
    module: str
    user: str
    host: str
    runtime: Path
    root: Path
    directory: Path
    units: tuple[str, ...]
    hosts: Mapping[str, tuple[str, ...]]
    workers: Mapping[str, tuple[str, ...]]
    queues: tuple[str, ...]
    redis: Mapping[str, Instance]
    ca: Path
    schedule: Path
    client: Mapping[str, Path] = field(default_factory=dict)
    timezone: str | None = None
    log_directory: Path | None = None

    def in_group(self, group: str) -> list[str]:
        """The hosts of a group of the inventory."""
        return [name for name, groups in self.hosts.items() if group in groups]

    def on(self, worker: str) -> str:
        """Where a worker of this name runs: ``it is on worker1, worker2``; else which ones there are."""
        nodes = [node.partition("@") for node in self.workers]
        hosts = [host for name, _, host in nodes if name == worker]
        names = ", ".join(dict.fromkeys(name for name, _, _ in nodes))
        return f"it is on {', '.join(hosts)}" if hosts else f"the workers are {names or 'none'}"

    @property
    def consumed(self) -> list[str]:
        """The queues that a worker of the inventory consumes."""
        return sorted({queue for queues in self.workers.values() for queue in queues})

    @property
    def release(self) -> Path:
        """The current release, with all links resolved.

        Raises:
            CommandError: There is none on this host.
        """
        link = self.root / "current"
        try:
            return link.resolve(strict=True)
        except PermissionError:
            raise need_root(link) from None
        except OSError:
            where = sorted(
                {
                    host
                    for group in ("celery_workers", "celery_beat", "celery_producers")
                    for host in self.in_group(group)
                }
            )
            raise CommandError(
                f"{self.name} has no release on {self.host} ({link} is missing); run this on"
                f" {', '.join(where) or 'a host of workers'}, or deploy with site.yml"
            ) from None

    def settings(self, component: str = "operator") -> dict[str, Any]:
        """A component's settings, its password among them.

        Raises:
            CommandError: They are not here, or not for this user.
        """
        path = self.directory / "credentials" / f"{component}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except PermissionError:
            raise need_root(path) from None
        except FileNotFoundError:
            raise CommandError(
                f"{path} is missing on {self.host}; run this on a host that has it, or run site.yml"
            ) from None
        except (OSError, ValueError) as error:
            raise CommandError(f"{path} can't be read ({error}); run site.yml again") from None
        return found

    def carried_settings(self) -> dict[str, Any]:
        """The operator's settings for a process that is not root's, with what it shows to Redis in them.

        Raises:
            CommandError: See `settings`; or what it shows is not here.
        """
        try:
            return client_certificate.carried(self.settings())
        except OSError as error:
            raise CommandError(
                f"{error.filename} can't be read ({error.strerror}); run site.yml again"
            ) from None


def names(configuration: Path | None = None) -> list[str]:
    """The applications of this host."""
    found = (configuration or CONFIGURATION).glob("*/cli.json")
    return sorted(path.parent.name for path in found)


def choose(given: str | None) -> Application:
    """The application that is meant: the one named, or the host's only one.

    Raises:
        CommandError: There is none, or the choice is open.
    """
    have = names()
    if not have:
        raise CommandError(
            f"there is no application of Celery Fleet on this host ({CONFIGURATION}/*/cli.json);"
            " deploy one with site.yml"
        )
    if given is None and len(have) > 1:
        raise CommandError(
            f"this host has several applications, {', '.join(have)}: say --app {have[0]}", USAGE
        )
    name = given or have[0]
    if name not in have:
        raise CommandError(
            f"--app {name}: this host has no such application, but {', '.join(have)}", USAGE
        )
    return read(CONFIGURATION / name / "cli.json")


def read(path: Path) -> Application:
    """Read a host's file.

    Raises:
        CommandError: It is no such file.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"its format is {raw['format']}, this command reads {FORMAT}")
        return parse(raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CommandError(f"{path} can't be read ({words}); run site.yml again") from None


def parse(raw: Mapping[str, Any]) -> Application:
    """An application from the file's content."""
    redis = raw["redis"]
    logs = raw.get("logs") or {}
    return Application(
        name=raw["app"],
        module=raw["module"],
        user=raw["user"],
        host=raw["host"],
        runtime=Path(raw["runtime"]),
        root=Path(raw["root"]),
        directory=Path(raw["directory"]),
        units=tuple(raw["units"]),
        hosts={name: tuple(groups) for name, groups in raw["hosts"].items()},
        workers={name: tuple(queues) for name, queues in raw["workers"].items()},
        queues=tuple(raw["queues"]),
        redis={
            kind: Instance(
                kind=kind,
                host=one["host"],
                port=int(one["port"]),
                unit=one["unit"],
                acl=Path(one["acl"]),
                here=bool(one["here"]),
            )
            for kind, one in redis["instances"].items()
        },
        ca=Path(redis["ca"]),
        client={name: Path(path) for name, path in (redis.get("client") or {}).items()},
        schedule=Path(raw["schedule"]),
        timezone=raw.get("timezone"),
        log_directory=Path(logs["directory"]) if logs.get("destination") == "file" else None,
    )
