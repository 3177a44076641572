"""What a restore works on: an instance, and the host that it is on.

Runs on the host, inside the `redis_restore` module, as root.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils import mounts
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    Talk,
    talk,
)

DATA = "/var/lib/celery-fleet-redis"
CONFIG = "/etc/celery-fleet/redis"


@dataclass(frozen=True)
class RestoredInstance:
    """The instance to restore.

    Attributes:
        name: Its name, such as `shop-broker`.
        sha256: Checksum of the snapshot.
        size: The snapshot's size in bytes.
        appendonly: Whether it writes an append-only file.
        flavor: `redis` or `valkey`, also the Unix user that owns its data.
        timeout: Seconds until it has to serve.
        access: A login that may ask for INFO.
    """

    name: str
    sha256: str
    size: int
    appendonly: bool
    flavor: str
    timeout: float
    access: RedisAccess

    @property
    def unit(self) -> str:
        """Return the name of its unit."""
        return f"redis@{self.name}.service"


@dataclass
class RestoreHost:
    """The host; tests replace its parts.

    Attributes:
        data: The directory with the data of all instances.
        config: The directory with the deployed configurations of all instances.
        run: Runs a command.
        talk: Asks Redis.
        mounts: Real paths at which something is mounted.
        free: Returns how many bytes are free in a directory.
    """

    data: Path = Path(DATA)
    config: Path = Path(CONFIG)
    run: systemd.Runner = systemd.run
    talk: Talk = talk
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    owner: Callable[[Path, str], None] = field(
        default=lambda path, user: shutil.chown(path, user, user)
    )
    mounts: frozenset[str] = field(default_factory=mounts.mount_points)
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
