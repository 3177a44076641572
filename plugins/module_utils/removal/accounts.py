"""Unix users and groups that a removal looks at."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.removal.packages import (
    at_home,
)


@dataclass(frozen=True)
class Account:
    """A Unix user or group, as far as it matters here."""

    name: str
    number: int
    comment: str = ""
    members: tuple[str, ...] = ()


class Accounts:
    """The users and groups of the host; tests have some of their own."""

    def user(self, name: str) -> Account | None:
        """One user."""
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return None
        return Account(name, found.pw_uid, found.pw_gecos)

    def group(self, name: str) -> Account | None:
        """One group."""
        try:
            found = grp.getgrnam(name)
        except KeyError:
            return None
        return Account(name, found.gr_gid, members=tuple(found.gr_mem))

    def processes(self, numbers: Iterable[int]) -> list[str]:
        """Processes that run as one of these users, each as a person reads it."""
        wanted, found = set(numbers), []
        for process in os.listdir("/proc"):
            if not process.isdigit():
                continue
            try:
                if os.stat(f"/proc/{process}").st_uid in wanted and at_home(process):
                    name = Path(f"/proc/{process}/comm").read_text().strip()
                    found.append(f"{process} ({name})")
            except OSError:
                continue  # it has just ended
        return sorted(found)
