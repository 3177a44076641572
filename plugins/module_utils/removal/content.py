"""Lists the content of a directory to remove, and says what stays. The plan and the removal both follow this list.

Runs on the host, as root, in directories that the application's users may write to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .host import RemovalHost

MOUNTED = "is another filesystem, or mounted there"
DECLARED = "is in celery_app_directories, and not empty"
FOREIGN = "is not the application's"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True)
class TreeEntry:
    """A file or directory below a directory to remove.

    Attributes:
        path: Its path on the host.
        parent: The open directory that contains it, until the next entry.
        directory: Whether it is a directory. It stays if anything in it stays.
        size: Its size in bytes, without what is in it.
        stays: Why it stays; empty if it may go.
    """

    path: str
    parent: int
    directory: bool = True
    size: int = 0
    stays: str = ""


def content(
    host: RemovalHost, top: str, owners: Collection[int], declared: Collection[str]
) -> Iterator[TreeEntry]:
    """Yield what is below a directory, inner entries first. What is mounted there is neither entered nor looked at.

    Args:
        host: The host.
        top: The directory. There is nothing below a link or a file.
        owners: IDs of the users with files that go.
        declared: Directories that stay with all their content, unless they are empty.
    """
    place = host.at(top)
    if os.path.islink(place) or not os.path.isdir(place):
        return
    real = os.path.realpath(place)

    def below(inner: str, parent: int) -> Iterator[TreeEntry]:
        device = os.fstat(parent).st_dev
        for name in os.listdir(parent):
            path = f"{inner}/{name}"
            if real + path in host.mounts:
                yield TreeEntry(top + path, parent, stays=MOUNTED)
                continue
            try:
                about = os.lstat(name, dir_fd=parent)
            except FileNotFoundError:
                # The application may remove files at the same time.
                continue
            stays = "" if about.st_uid in owners else FOREIGN
            if not stat.S_ISDIR(about.st_mode):
                yield TreeEntry(top + path, parent, False, about.st_blocks * 512, stays)
                continue
            if about.st_dev != device:
                stays = MOUNTED
            elif (handle := _opened(name, parent)) is not None:
                try:
                    if top + path in declared and os.listdir(handle):
                        stays = DECLARED
                    else:
                        yield from below(path, handle)
                finally:
                    os.close(handle)
            yield TreeEntry(top + path, parent, True, about.st_blocks * 512, stays)

    handle = os.open(place, _OPEN)
    try:
        yield from below("", handle)
    finally:
        os.close(handle)


def _opened(name: str, parent: int) -> int | None:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except OSError:
        # It is gone meanwhile, or a link now.
        return None
