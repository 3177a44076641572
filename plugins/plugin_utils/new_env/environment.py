"""Types of an environment: its hosts and their groups, the application, and the project that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ansible import constants

from ..preflight.checks import network
from ..preflight.model.paths import base_directory

REDIS: Final = "redis"
WORKERS: Final = "celery_workers"
BEAT: Final = "celery_beat"
PRODUCERS: Final = "celery_producers"
FLOWER: Final = "flower"
# In the order of hosts.yml, each with the option that names its hosts.
GROUPS: Final[Mapping[str, str]] = {
    REDIS: "REDIS",
    WORKERS: "WORKERS",
    BEAT: "BEAT",
    PRODUCERS: "PRODUCERS",
    FLOWER: "FLOWER",
}


@dataclass(frozen=True)
class Project:
    """The directories from which the program reads and to which it writes.

    Attributes:
        base: The directory from which relative paths start: a checkout of Celery Fleet, or a user's own project.
        inventories: The directory in which the environment's directory is made.
    """

    base: Path
    inventories: Path

    @property
    def is_checkout(self) -> bool:
        """Whether `base` is a checkout of Celery Fleet, not a project that uses the installed collection."""
        return (self.base / "galaxy.yml").is_file() and (self.base / "playbooks/site.yml").is_file()

    @property
    def has_relative_paths(self) -> bool:
        """Whether runs in `base` take the inventory's relative paths from there, and not from another ansible.cfg."""
        config = constants.config.get_config_value("CONFIG_FILE")
        return base_directory(config).resolve() == self.base.resolve()


@dataclass(frozen=True)
class NewWorker:
    """A worker with its one queue; `concurrency` is None for Celery's default."""

    name: str
    queue: str
    concurrency: int | None


@dataclass(frozen=True)
class Database:
    """The parts of DATABASE_URL, without its password.

    Attributes:
        on: The host of the fleet on which `examples/postgresql.yml` installs PostgreSQL; empty if the database is
            elsewhere or is installed in another way.
    """

    scheme: str
    user: str
    host: str
    port: int | None
    path: str
    query: Mapping[str, str]
    on: str


@dataclass(frozen=True)
class Environment:
    """All that the files of an environment are made from, except its secrets.

    Attributes:
        members: Group -> its hosts; a group without hosts is left out, and Redis always has one.
        source: `celery_app_source`.
        addresses: Host -> `ansible_host`, for hosts that have one.
    """

    name: str
    hosts: tuple[str, ...]
    addresses: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]
    app: str
    module: str
    source: Mapping[str, str]
    workers: tuple[NewWorker, ...]
    routes: Mapping[str, str]
    web: tuple[str, ...]
    protected: tuple[str, ...]
    domain: str
    database: Database | None
    ssh_user: str
    firewall: bool
    secrets: str
    vault_password_file: Path | None

    def has(self, group: str) -> bool:
        """Return whether a group has hosts."""
        return group in self.members

    @property
    def addresses_known(self) -> bool:
        """Whether the address that each host's connections come from is known."""
        return all(network.is_address(self.addresses.get(host, host)) for host in self.hosts)


def default_members(hosts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the default groups: one of two hosts has the workers; of more, one only has Redis."""
    first, *others = hosts
    if not others:
        redis, control, workers = first, first, [first]
    elif len(others) == 1:
        redis, control, workers = first, first, others
    else:
        redis, control, *workers = hosts
    return {
        REDIS: (redis,),
        WORKERS: tuple(workers),
        BEAT: (control,),
        PRODUCERS: (control,),
        FLOWER: (control,),
    }
