"""Access to the host for a removal: commands, Redis, accounts and files.

Runs on the host, as root. Tests use a fake host below a directory.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .. import mounts
from ..reconcile import redis_client, systemd
from ..reconcile.report import ReconcileError
from .accounts import Accounts


@dataclass(frozen=True)
class RemovalHost:
    """Operations on the host that a removal needs.

    Attributes:
        run: Runs a command.
        talk: Sends commands to a Redis.
        accounts: Users and groups.
        base: Directory that replaces the root of the file system; empty for the real one.
        sleep: Waits for a number of seconds.
        clock: Monotonic clock, in seconds.
        mounts: Real paths at which something is mounted.
    """

    run: systemd.Runner = systemd.run
    talk: redis_client.Talk = redis_client.talk
    accounts: Accounts = field(default_factory=Accounts)
    base: str = ""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    mounts: frozenset[str] = field(default_factory=mounts.mount_points)

    def at(self, path: str) -> str:
        """Return the real location of a path of the host."""
        return f"{self.base}{path}"

    def exists(self, path: str) -> bool:
        """Return whether a path exists, including a dangling link."""
        return os.path.lexists(self.at(path))

    def is_mount(self, path: str) -> bool:
        """Return whether something is mounted at a path."""
        return mounts.lies_at(self.at(path), self.mounts)

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern, sorted."""
        found = glob.glob(self.at(pattern))
        return sorted(path.removeprefix(self.base) for path in found)

    def show(self, names: Sequence[str]) -> dict[str, systemd.UnitState]:
        """Return the systemd state of units."""
        return systemd.show(names, self.run)

    def command(self, command: Sequence[str]) -> None:
        """Run a command.

        Raises:
            ReconcileError: The command failed.
        """
        done = self.run(command)
        if done.returncode != 0:
            raise ReconcileError(
                f"`{' '.join(command)}` failed: {done.output.strip()}. Fix that on this host and run again."
            )


def ended(state: systemd.UnitState) -> bool:
    """Return whether a unit has ended and systemd won't start it again."""
    return state.active in ("inactive", "failed") and not state.job
