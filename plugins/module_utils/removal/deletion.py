"""Removes files and directories of a host; every call may be repeated.

Runs on the host, as root, in directories that the application's users may write to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from .content import TreeEntry
from .host import RemovalHost


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
            # A link or a mount stays, and what a filesystem does not let root remove.
            with contextlib.suppress(OSError):
                os.rmdir(self.host.at(path))
                self.removed.append(path)

    def tree(self, path: str, content: Iterable[TreeEntry]) -> None:
        """Remove a directory with what may go of its content. Links are removed, and never followed.

        Args:
            path: The directory. Nothing of it is removed if it is a mount.
            content: What is in it, from `content.content`.
        """
        real = self.host.at(path)
        if self.host.is_mount(path):
            return
        if os.path.islink(real) or not os.path.isdir(real):
            self.files([path])
            return
        for entry in content:
            name = os.path.basename(entry.path)
            if entry.stays:
                continue
            if entry.directory:
                # It stays if something in it stays.
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=entry.parent)
            else:
                os.unlink(name, dir_fd=entry.parent)
        self.removed.append(path)
        self.empty_directories([path])
