"""Read a host's applications from ``/etc/celery-fleet/<app>/cli.json`` and the credentials next to it."""

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
    """One Redis instance of the application.

    Attributes:
        unit: Its systemd unit; empty if the fleet does not run it.
        limits: What a server that the fleet does not run can't do.
        name: The primary's name in the Sentinels, if the instance has replicas; `host` only began as the primary.
        sentinels: The Sentinels' hosts and ports.
    """

    kind: str
    host: str
    port: int
    unit: str
    acl: Path
    limits: tuple[str, ...] = ()
    name: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()

    @property
    def address(self) -> str:
        """Return where it is, for messages: host and port, or the name of a primary that may move."""
        return self.name if self.sentinels else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Application:
    """An application on this host.

    Attributes:
        host: The host's name in the inventory.
        runtime: Directory of the package that the host's processes use.
        units: The application's units on this host.
        hosts: All hosts of the fleet with their groups.
        workers: Queues by node name, for all hosts.
        queues: All queues that the inventory names.
        slos: SLOs by worker, each with `kind` (wait or failures), `budget` (share of tasks), `seconds` and `words`.
        external: Queues that only processes outside of the fleet consume.
        clients: Options of the applications outside of the fleet that use these Redis servers, by name.
        client: `certificate` and `key` to present to Redis, if it asks for them.
        schedule: The file in which the running beat lists what it has loaded; it only exists on beat's host.
        schedule_state: The file in which beat keeps when it sent what, unless its schedule is in a database.
        log_directory: Directory of log files; None if the logs are in the journal.
        backup: Seconds between two backups of Redis on this host; 0 if it makes none.
    """

    name: str
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
    schedule_state: Path
    client: Mapping[str, Path] = field(default_factory=dict)
    log_directory: Path | None = None
    external: tuple[str, ...] = ()
    slos: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    clients: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    backup: float = 0.0

    def in_group(self, group: str) -> list[str]:
        """Return the hosts of a group of the inventory."""
        return [name for name, groups in self.hosts.items() if group in groups]

    def on(self, worker: str) -> str:
        """Return the hosts of a worker as text (``it is on worker1, worker2``), or else the names of all workers."""
        nodes = [node.partition("@") for node in self.workers]
        hosts = [host for name, _, host in nodes if name == worker]
        names = ", ".join(dict.fromkeys(name for name, _, _ in nodes))
        return f"it is on {', '.join(hosts)}" if hosts else f"the workers are {names or 'none'}"

    @property
    def consumed(self) -> list[str]:
        """Return the queues that a worker of the inventory, or a process outside of the fleet, consumes."""
        ours = {queue for queues in self.workers.values() for queue in queues}
        return sorted({*ours, *self.external})

    @property
    def command(self) -> str:
        """Return how to type the command for this application, which is only named if the host has several."""
        return f"celery-fleet --app {self.name}" if len(names()) > 1 else "celery-fleet"

    @property
    def release(self) -> Path:
        """Return the directory of the current release, with all links resolved.

        Raises:
            CommandError: This host has no release.
        """
        link = self.root / "current"
        try:
            return link.resolve(strict=True)
        except PermissionError:
            raise need_root(f"read {link}") from None
        except OSError:
            where = sorted(
                {
                    host
                    for group in ("celery_workers", "celery_beat", "celery_producers")
                    for host in self.in_group(group)
                }
            )
            what = f"{link.readlink()} is missing" if link.is_symlink() else f"{link} is missing"
            others = [host for host in where if host != self.host]
            raise CommandError(
                f"{self.name} has no release on {self.host} ({what}); run this on"
                f" {', '.join(others) or 'a host of workers'}, or deploy with site.yml"
            ) from None

    def settings(self, component: str = "operator") -> dict[str, Any]:
        """Return a component's settings, including its password.

        Raises:
            CommandError: They are not on this host, or this user may not read them.
        """
        path = self.directory / "credentials" / f"{component}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except PermissionError:
            raise need_root(f"read {path}") from None
        except FileNotFoundError:
            raise CommandError(
                f"{path} is missing on {self.host}; run this on a host that has it, or run site.yml"
            ) from None
        except (OSError, ValueError) as error:
            raise CommandError(f"{path} can't be read ({error}); run site.yml again") from None
        return found

    def carried_settings(self) -> dict[str, Any]:
        """Return the operator's settings with the client certificate in them, for a process that is not root.

        Raises:
            CommandError: See `settings`; or the certificate can't be read.
        """
        try:
            return client_certificate.carried(self.settings())
        except OSError as error:
            raise CommandError(
                f"{error.filename} can't be read ({error.strerror}); run site.yml again"
            ) from None


def names(configuration: Path | None = None) -> list[str]:
    """Return the names of this host's applications."""
    found = (configuration or CONFIGURATION).glob("*/cli.json")
    return sorted(path.parent.name for path in found)


def choose(given: str | None) -> Application:
    """Return the named application, or the host's only one.

    Raises:
        CommandError: There is none, or there are several and none is named.
    """
    have = names()
    if not have:
        raise CommandError(
            f"there is no application of Celery Fleet on this host ({CONFIGURATION}/*/cli.json);"
            " deploy one with site.yml"
        )
    if given is None and len(have) > 1:
        raise CommandError(
            f"this host has several applications, {', '.join(have)}: add --app NAME", USAGE
        )
    name = given or have[0]
    if name not in have:
        raise CommandError(
            f"--app {name}: this host has no such application; it has {', '.join(have)}", USAGE
        )
    return read(CONFIGURATION / name / "cli.json")


def read(path: Path) -> Application:
    """Read an application's ``cli.json``.

    Raises:
        CommandError: The file can't be read or has another format.
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
    """Create an application from the file's content."""
    redis = raw["redis"]
    logs = raw.get("logs") or {}
    return Application(
        name=raw["app"],
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
                limits=tuple(one.get("limits") or ()),
                name=str(one.get("name") or ""),
                sentinels=tuple(
                    (str(of["host"]), int(of["port"])) for of in one.get("sentinels") or ()
                ),
            )
            for kind, one in redis["instances"].items()
        },
        ca=Path(redis["ca"]),
        client={name: Path(path) for name, path in (redis.get("client") or {}).items()},
        schedule=Path(raw["schedule"]),
        schedule_state=Path(raw["schedule_state"]),
        external=tuple(raw.get("external") or ()),
        clients=raw.get("clients") or {},
        backup=float(raw.get("backup", 0)),
        slos={worker: tuple(found) for worker, found in (raw.get("slos") or {}).items()},
        log_directory=Path(logs["directory"]) if logs.get("destination") == "file" else None,
    )
