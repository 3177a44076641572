"""Keep acknowledgements that could not be sent until they can be sent. Standard library only.

If a task ended while the broker was away, putting its message back would run it again. So its tag is kept in memory and
in a file of the runtime directory, one tag per line, oldest first. The next connection sends it. If the process dies,
the hand-back or the next start of the node sends it. Tags contain their owner's start, so those of an earlier start
can't affect another delivery.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from celery_fleet.common import json_file
from celery_fleet.delivery.messages import owner_of

logger = logging.getLogger("celery_fleet.delivery")

#: The name of the file in the runtime directory.
NAME = "pending"


class Pending:
    """The kept tags, in the order in which they were added. Safe in any thread.

    Args:
        path: The file; if None, the tags are only kept in memory.
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
                "%s can't be read (%s), so tasks that have ended may run again",
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
        """Keep a tag. Adding it again has no effect."""
        with self._lock:
            if tag not in self._tags:
                self._tags[tag] = None
                self._write(f"{tag}\n", whole=False)

    def sent(self, tags: Iterable[str]) -> None:
        """Forget tags that were sent to the broker."""
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
                json_file.replace_bytes(self.path, text.encode(), 0o600)
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
    # Ignore a last line without an end: if the process died while it wrote, the tag is incomplete.
    whole = content.decode(errors="replace").split("\n")[:-1]
    return [tag for tag in dict.fromkeys(whole) if owner_of(tag) is not None]
