"""Remove files and directories of a host, each as often as it is asked for.

Runs on the host, as root, in directories that the application's users may write to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable

from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import (
    SHARED_DIRECTORIES,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import Host, is_roots


class Deletion:
    """Removes paths and notes in `removed` what was there."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.removed: list[str] = []

    def files(self, paths: Iterable[str]) -> None:
        """Remove files and links."""
        for path in paths:
            try:
                os.unlink(self.host.at(path))
            except FileNotFoundError:
                continue
            self.removed.append(path)

    def empty_directories(self, patterns: Iterable[str]) -> None:
        """Remove directories that match patterns and have nothing in them."""
        for pattern in patterns:
            for path in self.host.glob(pattern):
                real = self.host.at(path)
                if os.path.isdir(real) and not os.path.islink(real) and not os.listdir(real):
                    if self._is_packaged(path):
                        continue
                    os.rmdir(real)
                    self.removed.append(path)

    def tree(self, path: str) -> None:
        """Remove a directory with all that is in it."""
        real = self.host.at(path)
        if os.path.islink(real):
            if is_roots(real):
                # An operator has moved it to another disk: what is behind goes, the place there stays.
                _empty(os.path.realpath(real))
            os.unlink(real)
        else:
            shutil.rmtree(real)
        self.removed.append(path)

    def owned(self, path: str, owners: set[int]) -> None:
        """Remove what some users own below a directory; by handles, since they may put a link anywhere on the way."""
        gone = False
        real = self.host.at(path)
        # As with a whole tree: what root has moved to another disk is there.
        moved = os.path.islink(real) and is_roots(real)
        top = os.path.realpath(real) if moved else real
        for _, directories, names, handle in os.fwalk(top, topdown=False, follow_symlinks=False):
            for name in (*names, *directories):
                about = os.lstat(name, dir_fd=handle)
                if about.st_uid not in owners:
                    continue
                with contextlib.suppress(OSError):
                    if stat.S_ISDIR(about.st_mode):
                        # It stays if something of another user is in it.
                        os.rmdir(name, dir_fd=handle)
                    else:
                        os.unlink(name, dir_fd=handle)
                    gone = True
        if moved and not os.listdir(top):
            os.unlink(real)
            gone = True
        if gone:
            self.removed.append(path)

    def _is_packaged(self, path: str) -> bool:
        """Return whether an empty directory is a package's: Debian 12 has no /etc/sysusers.d, a later one may."""
        if path not in SHARED_DIRECTORIES:
            return False
        return self.host.run(["dpkg-query", "--search", path]).returncode == 0


def _empty(real: str) -> None:
    for entry in os.scandir(real):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
