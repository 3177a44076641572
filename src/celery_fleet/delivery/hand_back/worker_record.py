"""What a worker leaves to its unit's hand-back, in its runtime directory. Standard library alone.

``lock``
    A shared ``flock`` of the worker's process, which its pool's children inherit: whoever gets it
    exclusively knows that none of them lives. Programs that a task runs don't inherit it.
``owner.json``
    Whose deliveries they are, and what one needs to know to put them back (:class:`WorkerRecord`).
``begun``
    Which deliveries a pool has begun to run: slots of eight bytes, each the number in a delivery's tag, or
    0. One ``pwrite`` on tmpfs notes one and another forgets it, so that there is no moment at which the
    process can die and leave something unreadable. A delivery that is noted and no longer in ``unacked``
    has been acknowledged, and does not matter.
``pending``
    Tags of tasks that have ended and whose acknowledgement the broker has not taken yet, one a line.
``stopping``
    There from when the unit was told to stop: then the process is killed for a drain that took too long,
    and no task is to blame.
"""

from __future__ import annotations

import array
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from celery_fleet.common.errors import FleetError
from celery_fleet.delivery.messages import SEPARATOR, STEPS
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage import pending
from celery_fleet.delivery.tags import Owner, owner_of

log = logging.getLogger(__name__)

LOCK, RECORD, BEGUN, STOPPING = "lock", "owner.json", "begun", "stopping"

DIRECTORY_VARIABLE = "RUNTIME_DIRECTORY"

FORMAT = 1

#: Bytes of a slot in ``begun``.
SLOT = 8
_FREE = bytes(SLOT)

#: Seconds that a starting worker waits for a hand-back that still goes on; it takes no longer.
WAIT_FOR_LOCK = 15.0


@dataclass(frozen=True)
class WorkerRecord:
    """Whose deliveries they are, and where in the broker they belong."""

    node: str
    start: str
    #: Seconds after which any worker puts back what is left.
    lease: float
    #: Processes that may die of a task, and dead letters that are kept; None: none is made.
    deaths: int | None = None
    keep: int = 10_000
    #: kombu's hash and sorted set, the separator of queue and priority, and the steps of priority.
    unacked: str = "unacked"
    index: str = "unacked_index"
    separator: str = SEPARATOR
    steps: tuple[int, ...] = STEPS

    @property
    def owner(self) -> Owner:
        """As it stands in the tags."""
        return Owner(self.node, self.start)

    @classmethod
    def of(cls, owner: Owner, transport: Mapping[str, Any], options: Options) -> WorkerRecord:
        """That of a process with these broker_transport_options."""
        default = cls(owner.node, owner.start, 0)
        return cls(
            node=owner.node,
            start=owner.start,
            # kombu's own default is an hour.
            lease=float(transport.get("visibility_timeout") or 3600),
            deaths=options.deaths if options.dead_letters else None,
            keep=options.keep,
            unacked=str(transport.get("unacked_key", default.unacked)),
            index=str(transport.get("unacked_index_key", default.index)),
            separator=str(transport.get("sep", default.separator)),
            steps=tuple(int(step) for step in transport.get("priority_steps") or default.steps),
        )

    @classmethod
    def read(cls, directory: Path) -> WorkerRecord | None:
        """That which a process has left; None where it has never begun to take tasks.

        Raises:
            FleetError: The file can't be read, or says something else.
        """
        path = directory / RECORD
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FleetError(f"{path} can't be read ({error})") from error
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise FleetError(f"{path} is of another format than {FORMAT}")
        try:
            found = cls(**{**document, "steps": tuple(document["steps"])})
        except (TypeError, KeyError) as error:
            raise FleetError(f"{path} is not complete ({error})") from error
        for name, kinds in _TYPES.items():
            if type(getattr(found, name)) not in kinds:
                raise FleetError(f"{path}: {name} is {getattr(found, name)!r}")
        if not found.steps or any(type(step) is not int for step in found.steps):
            raise FleetError(f"{path}: steps are {found.steps!r}")
        return found

    def write(self, directory: Path) -> None:
        """Leave it there, whole or not at all.

        Raises:
            OSError: It can't be written.
        """
        fresh = directory / f"{RECORD}.new"
        fresh.write_text(json.dumps({"format": FORMAT, **asdict(self)}), encoding="utf-8")
        fresh.replace(directory / RECORD)


_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("node", "start", "unacked", "index", "separator"), (str,)),
    "lease": (int, float),
    "deaths": (int, type(None)),
    "keep": (int,),
}


class StartedTasks:
    """Notes what has begun. For any thread: each step is one operation of a list, a dict or the system."""

    def __init__(self, owner: Owner, path: Path) -> None:
        """Begin with an empty file.

        Raises:
            OSError: There can't be one.
        """
        self._prefix = owner.prefix
        self._path = path
        # Not inherited by programs that a task runs, like all that Python opens.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._slots: dict[str, int] = {}
        # Used again in turn, so that the file is as long as the pool is wide.
        self._free: list[int] = []
        self._fresh = count(0, SLOT)
        self._failed = False

    def note(self, tag: str) -> None:
        """A pool runs this delivery; another owner's, which a stock take makes, is passed over."""
        if not tag.startswith(self._prefix) or tag in self._slots:
            return
        number = int(tag[len(self._prefix) :], 16)
        try:
            slot = self._free.pop()
        except IndexError:
            slot = next(self._fresh)
        self._slots[tag] = slot
        self._write(number.to_bytes(SLOT, sys.byteorder), slot)

    def forget(self, tag: str) -> None:
        """It has ended and is acknowledged, or will be; again, or of one never noted, is harmless."""
        slot = self._slots.pop(tag, None)
        if slot is not None:
            self._write(_FREE, slot)
            self._free.append(slot)

    def close(self) -> None:
        """Note no more."""
        os.close(self._file)

    def _write(self, content: bytes, slot: int) -> None:
        try:
            os.pwrite(self._file, content, slot)
        except OSError as error:
            if not self._failed:
                log.warning(
                    "%s can't be written (%s): tasks that end this process are not counted",
                    self._path,
                    error.strerror,
                )
            self._failed = True


def read_begun(directory: Path) -> frozenset[int]:
    """Numbers of the deliveries that were noted; none where there is no file."""
    try:
        content = (directory / BEGUN).read_bytes()
    except FileNotFoundError:
        return frozenset()
    slots = array.array("Q", content[: len(content) // SLOT * SLOT])
    return frozenset(slots) - {0}


def read_pending(directory: Path, owner: Owner) -> list[str]:
    """Return the tags of the node's tasks that ended without an acknowledgement, also those of earlier starts.

    Raises:
        OSError: The file can't be read.
    """
    found = {tag: owner_of(tag) for tag in pending.read(directory / pending.NAME)}
    return [tag for tag, its in found.items() if its is not None and its.node == owner.node]


def directory_of(environ: Mapping[str, str]) -> Path | None:
    """The runtime directory that systemd gave to this process; a unit may have several, ours is the first."""
    given = environ.get(DIRECTORY_VARIABLE, "").split(":")[0]
    return Path(given) if given else None


def hold(directory: Path, *, wait: float = WAIT_FOR_LOCK) -> int:
    """Take the lock for this process and those that it forks; its file descriptor, to be kept open.

    Raises:
        OSError: It can't be had: TimeoutError where another process keeps it to itself for ``wait`` seconds.
    """
    return _locked(directory, fcntl.LOCK_SH, wait)


def nobody_holds(directory: Path, *, wait: float) -> int:
    """Take the lock alone, for a hand-back, waiting ``wait`` seconds; its file descriptor.

    Raises:
        OSError: TimeoutError where a process of the worker lives; others as `hold`.
    """
    return _locked(directory, fcntl.LOCK_EX, wait)


def _locked(directory: Path, kind: int, wait: float) -> int:
    file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{directory / LOCK} is held by another process") from None
            else:
                return file
            time.sleep(0.02)
    except BaseException:
        os.close(file)
        raise
