"""The disk as it will be after a run: its files with the planned writes and removals applied."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from .desired_state import DesiredState
from .fingerprint import TO_COME, Disk


class Overlay(Disk):
    """A disk that has the desired files and links, without those that will be removed."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        self._gone: set[str] = set()

    def add(self, wanted: DesiredState) -> None:
        """Add the files and links that one role wants."""
        for file in wanted.files:
            self.files[file.dest] = TO_COME if file.content is None else file.content.encode()
        for link in wanted.links:
            self.links[link.path] = link.target

    def remove(self, paths: Iterable[str]) -> None:
        """Hide paths that will be removed."""
        self._gone.update(set(paths) - self.files.keys() - self.links.keys())

    def read(self, path: str) -> bytes | None:
        """See `Disk`; returns `TO_COME` for a missing file that will be created later."""
        if path in self._gone:
            return None
        if path in self.files:
            return self.files[path]
        return super().read(path)

    def target(self, path: str) -> str | None:
        """See `Disk`."""
        if path in self._gone:
            return None
        return self.links.get(path) or super().target(path)

    def match(self, pattern: str) -> list[str]:
        """See `Disk`."""
        ours = {path for path in self.files if PurePosixPath(path).match(pattern)}
        return sorted((ours | set(super().match(pattern))) - self._gone)
