"""Looks up the host's Unix users, groups and processes for a removal."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Account:
    """A Unix user or group, with the number and the comment that the host has for it."""

    name: str
    number: int
    comment: str = ""


class Accounts:
    """The users and groups of the host; tests use fake ones."""

    def user(self, name: str) -> Account | None:
        """Return one user."""
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return None
        return Account(name, found.pw_uid, found.pw_gecos)

    def group(self, name: str) -> Account | None:
        """Return one group."""
        try:
            return Account(name, grp.getgrnam(name).gr_gid)
        except KeyError:
            return None

    def members(self, group: Account) -> list[str]:
        """Return the users who are members of a group, besides those for whom it is the primary group."""
        return grp.getgrnam(group.name).gr_mem

    def primary_users(self, group: Account) -> list[str]:
        """Return the users for whom it is the primary group."""
        return [user.pw_name for user in pwd.getpwall() if user.pw_gid == group.number]

    def processes(self, numbers: Iterable[int]) -> list[str]:
        """Return the processes that run as one of these users, each as text."""
        wanted, found = set(numbers), []
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.stat(f"/proc/{process}").st_uid in wanted and _is_at_home(process):
                    name = Path(f"/proc/{process}/comm").read_text().strip()
                    found.append(f"{process} ({name})")
            except OSError:
                continue  # it has just ended
        return sorted(found)


def _is_at_home(process: str) -> bool:
    """Return whether a process sees this host's files; one in a container has its own users."""
    try:
        return os.path.samestat(os.stat(f"/proc/{process}/root"), os.stat("/"))
    except PermissionError:
        # Even root may be confined; then the process counts.
        return True
