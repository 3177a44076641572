"""Keep acknowledgements that could not be sent, until they can. Standard library only.

A task that ended while the broker was away is done: if its message were put back, it would run again. So its tag is
kept, in memory and in a file of the runtime directory, one a line, oldest first. The next connection sends it, or the
hand-back of a process that died, or the next start of the node. Tags name their owner's start, so those of an earlier
start touch no other delivery.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from celery_fleet.delivery.messages import owner_of

logger = logging.getLogger("celery_fleet.delivery")

#: The name of the file in the runtime directory.
NAME = "pending"


class Pending:
    """The tags, in the order in which they came. For any thread.

    Args:
        path: The file; None keeps them only in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._tags: dict[str, None] = dict.fromkeys(self._left())
        self._failed = False
        if self._tags:
            self._write("".join(f"{tag}\n" for tag in self._tags), whole=True)

    def _left(self) -> list[str]:
        """Return the tags that an earlier process left; none if the file can't be read."""
        try:
            return [] if self.path is None else read(self.path)
        except OSError as exc:
            logger.error(
                "%s can't be read (%s): tasks whose acknowledgements are in it may run again",
                self.path,
                exc.strerror or exc,
            )
            return []

    def __contains__(self, tag: str) -> bool:
        return tag in self._tags

    def __len__(self) -> int:
        return len(self._tags)

    def tags(self) -> list[str]:
        """Return all tags, oldest first."""
        with self._lock:
            return list(self._tags)

    def add(self, tag: str) -> None:
        """Keep a tag; adding it again is harmless."""
        with self._lock:
            if tag not in self._tags:
                self._tags[tag] = None
                self._write(f"{tag}\n", whole=False)

    def sent(self, tags: Iterable[str]) -> None:
        """Forget tags that the broker has taken."""
        with self._lock:
            before = len(self._tags)
            for tag in tags:
                self._tags.pop(tag, None)
            if len(self._tags) != before:
                self._write("".join(f"{tag}\n" for tag in self._tags), whole=True)

    def _write(self, text: str, *, whole: bool) -> None:
        if self.path is None:
            return
        try:
            if whole:
                fresh = self.path.with_suffix(".new")
                fresh.write_text(text, encoding="utf-8")
                fresh.replace(self.path)
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
            self._failed = False
        except OSError as exc:
            if not self._failed:
                self._failed = True
                logger.error(
                    "%s can't be written (%s): if this process dies before the broker is back, %d tasks"
                    " that have ended run again",
                    self.path,
                    exc.strerror or exc,
                    len(self._tags),
                )


def read(path: Path) -> list[str]:
    """Return the tags in a file, oldest first; none if there is no file.

    Raises:
        OSError: The file can't be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    # The end of its process may have cut the last line short, so that it would be another tag.
    whole = content.decode(errors="replace").split("\n")[:-1]
    return [tag for tag in dict.fromkeys(whole) if owner_of(tag) is not None]
