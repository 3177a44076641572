"""Removes files and directories of a host; every call may be repeated.

Runs on the host, as root, in directories that the application's users may write to.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import RemovalHost


class Deletion:
    """Removes paths and lists the existing ones in `removed`."""

    def __init__(self, host: RemovalHost) -> None:
        self.host = host
        self.removed: list[str] = []

    def files(self, paths: Iterable[str]) -> None:
        """Remove files and links."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.host.at(path))
                self.removed.append(path)

    def empty_directories(self, paths: Iterable[str]) -> None:
        """Remove empty directories, the inner ones first."""
        for path in sorted(paths, reverse=True):
            real = self.host.at(path)
            if os.path.isdir(real) and not os.path.islink(real) and not os.listdir(real):
                os.rmdir(real)
                self.removed.append(path)

    def tree(self, path: str, owners: set[int]) -> None:
        """Remove a directory with the content that belongs to some users. Links are removed, and never followed."""
        real = self.host.at(path)
        if os.path.islink(real) or not os.path.isdir(real):
            self.files([path])
            return
        for _, directories, names, handle in os.fwalk(real, topdown=False, follow_symlinks=False):
            for name in (*names, *directories):
                about = os.lstat(name, dir_fd=handle)
                if about.st_uid not in owners:
                    continue
                if stat.S_ISDIR(about.st_mode):
                    # It stays if it contains files of another user.
                    with contextlib.suppress(OSError):
                        os.rmdir(name, dir_fd=handle)
                else:
                    os.unlink(name, dir_fd=handle)
        self.removed.append(path)
        self.empty_directories([path])
