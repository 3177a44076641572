"""The host as a removal reaches it: its commands, its Redis, its accounts, its files.

Runs on the host, as root. Tests have a host of their own below a directory.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    redis_client,
    systemd,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import (
    ReconcileError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.accounts import Accounts


@dataclass(frozen=True)
class Host:
    """The host as a removal reaches it.

    Attributes:
        run: Runs a command.
        talk: Asks a Redis.
        accounts: Users and groups.
        base: Directory that is taken for the root of the file system; empty for the real one.
        sleep: Waits for seconds.
        clock: Seconds that only grow.
    """

    run: systemd.Runner = systemd.run
    talk: redis_client.Talk = redis_client.talk
    accounts: Accounts = field(default_factory=Accounts)
    base: str = ""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def at(self, path: str) -> str:
        """Return where a path of the host really is."""
        return f"{self.base}{path}"

    def exists(self, path: str) -> bool:
        """Return whether there is something at a path, a link that leads nowhere included."""
        return os.path.lexists(self.at(path))

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern, sorted."""
        found = glob.glob(self.at(pattern))
        return sorted(path.removeprefix(self.base) for path in found)

    def show(self, names: Sequence[str]) -> dict[str, systemd.UnitState]:
        """Return what systemd says of units."""
        return systemd.show(names, self.run)

    def command(self, command: Sequence[str]) -> None:
        """Run a command.

        Raises:
            ReconcileError: It failed.
        """
        done = self.run(command)
        if done.returncode != 0:
            raise ReconcileError(
                f"`{' '.join(command)}` failed: {done.output.strip()}. Mend that on this host and run again."
            )


def ended(state: systemd.UnitState) -> bool:
    """Return whether a unit has ended and systemd is not about to start it."""
    return state.active in ("inactive", "failed") and not state.job
