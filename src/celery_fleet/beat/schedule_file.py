"""Keeps beat's schedule in a file, in place of the module ``shelve`` that Celery uses.

With ``shelve``, a beat that was killed on Debian 12 went on with the times from its start. On Debian 13, Celery removed
the file if the disk was full.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from pathlib import Path
from typing import Any, Self

from celery_fleet.common import pickle_file
from celery_fleet.common.pickle_file import PickleFile, UnreadableError

logger = logging.getLogger("celery_fleet.beat")

#: The directory that systemd gives to beat, and the file's name there; its unit's command line has the whole path.
DIRECTORY_VARIABLE = "STATE_DIRECTORY"
NAME = "celerybeat-schedule"


def remove_left(directory: str | None) -> None:
    """Remove the file of a beat that kept its schedule there, in one that keeps it elsewhere.

    If the inventory changes back, beat would send everything that was due meanwhile.
    """
    if directory is None:
        return
    # This beat runs all the same if it stays.
    with contextlib.suppress(OSError):
        for suffix in ("", *pickle_file.OF_SHELVE):
            Path(directory, f"{NAME}{suffix}").unlink(missing_ok=True)


class ScheduleFile(PickleFile):
    """The content of the file, which Celery changes in place and saves by ``sync``."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        super().__init__(path, content)
        self._told = False

    @classmethod
    def open(cls, name: str, writeback: bool = True) -> ScheduleFile:
        """Read a file, as ``shelve.open`` does; Celery removes one that is damaged, and opens it again.

        Raises:
            SystemExit: It is there and can't be read.
        """
        path = Path(name)
        try:
            return cls(path, read(path))
        except UnreadableError as exc:
            raise SystemExit(f"celery_fleet: the schedule {exc}") from exc

    def sync(self) -> None:
        """Write everything to the disk. After a crash, the file has this content or the one before.

        A full or read-only disk must not stop beat: an error is logged once, and the next call tries again.
        """
        try:
            super().sync()
        except OSError as error:
            if not self._told:
                self._told = True
                logger.error(
                    "the schedule %s can't be saved: %s; beat goes on, but a restart may repeat what it sends until"
                    " then: make room on the disk, or make it writable",
                    self._path,
                    error.strerror,
                )
            return
        if self._told:
            self._told = False
            logger.warning("the schedule %s is saved again", self._path)


class _Lost:
    """Stands for an object of a class that the release no longer has, until Celery replaces or drops its entry."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def _ignore(self, *_: Any) -> None:
        """Take what belongs to the object."""

    # A pickle has the items of lists and dictionaries apart from the object.
    __setstate__ = __setitem__ = append = extend = _ignore


class _Unpickler(pickle.Unpickler):  # only beat writes what it reads
    """Keeps all other entries if the schedule class of one is gone; Celery would remove the file."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return _Lost


def read(path: Path) -> dict[str, Any]:
    """Return the content of a schedule's file; empty if there is none.

    Raises:
        UnreadableError: It is there and can't be read.
        Exception: It is damaged.
    """
    content = pickle_file.read(path, _Unpickler)
    if "entries" in content:
        # Celery can't update an entry if its own class is gone.
        entries = content["entries"].items()
        content["entries"] = {name: one for name, one in entries if not isinstance(one, _Lost)}
    return content
