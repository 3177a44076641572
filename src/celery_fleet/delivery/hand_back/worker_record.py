"""Files in a worker's runtime directory from which its unit can hand back its messages. Standard library only.

``lock``
    The worker's process holds a shared ``flock`` on it, which the children of its pool inherit. A hand-back that gets
    the lock exclusively knows that all of them have ended. Programs that a task starts don't inherit the lock.
``owner.json``
    The owner of the deliveries, and the data needed to put them back (:class:`WorkerRecord`).
``begun``
    The deliveries that a pool has begun to run: slots of eight bytes, each with the number in a delivery's tag, or 0.
    One ``pwrite`` on tmpfs records a delivery, and another one removes it. So the file is readable whenever the process
    dies. A delivery that is recorded but no longer in ``unacked`` has been acknowledged, and is
    ignored.
``pending``
    Tags of tasks that have ended, but are not acknowledged in the broker yet, one per line.
``stopping``
    Exists when the unit has been told to stop. If the process is killed then, its drain took too long, and no task is
    to blame.
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

from celery_fleet.common import json_file
from celery_fleet.common.errors import FleetError
from celery_fleet.delivery.messages import SEPARATOR, STEPS, Owner, owner_of
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.outage import pending

log = logging.getLogger(__name__)

LOCK, RECORD, BEGUN, STOPPING = "lock", "owner.json", "begun", "stopping"

DIRECTORY_VARIABLE = "RUNTIME_DIRECTORY"

FORMAT = 1

#: Size of a slot in ``begun``, in bytes.
SLOT = 8
_FREE = bytes(SLOT)

#: Seconds that a starting worker waits for a running hand-back, which needs less time than this.
WAIT_FOR_LOCK = 15.0


@dataclass(frozen=True)
class WorkerRecord:
    """The owner of a worker's deliveries, and their keys in the broker."""

    node: str
    start: str
    #: Seconds after which any worker puts back the remaining messages.
    lease: float
    #: A task that has killed this many processes becomes a dead letter (None: never), and how many dead letters to
    #: keep.
    deaths: int | None = None
    keep: int = 10_000
    #: kombu's hash and sorted set, the separator of queue and priority, and the priority steps.
    unacked: str = "unacked"
    index: str = "unacked_index"
    separator: str = SEPARATOR
    steps: tuple[int, ...] = STEPS

    @property
    def owner(self) -> Owner:
        """Return the owner that the tags name."""
        return Owner(self.node, self.start)

    @classmethod
    def of(cls, owner: Owner, transport: Mapping[str, Any], options: Options) -> WorkerRecord:
        """Return the record of a process with these broker_transport_options."""
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
        """Return the record that a process has left; None if it never started to fetch tasks.

        Raises:
            FleetError: The file can't be read, or has unexpected content.
        """
        path = directory / RECORD
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FleetError(f"{path} can't be read ({error})") from error
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise FleetError(f"{path} does not have format {FORMAT}")
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
        """Write the record atomically.

        Raises:
            OSError: It can't be written.
        """
        json_file.replace(directory / RECORD, {"format": FORMAT, **asdict(self)}, 0o600)


_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("node", "start", "unacked", "index", "separator"), (str,)),
    "lease": (int, float),
    "deaths": (int, type(None)),
    "keep": (int,),
}


class StartedTasks:
    """Records the tasks that have begun.

    It is safe in any thread, because each step is a single operation of a list, a dict or the system.
    """

    def __init__(self, owner: Owner, path: Path) -> None:
        """Create an empty file.

        Raises:
            OSError: The file can't be created.
        """
        self._prefix = owner.prefix
        self._path = path
        # Programs that a task starts do not inherit a file that Python opens.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._slots: dict[str, int] = {}
        # Slots are reused, so the file has no more slots than the pool has processes.
        self._free: list[int] = []
        self._fresh = count(0, SLOT)
        self._failed = False

    def note(self, tag: str) -> None:
        """Record that a pool runs a delivery. One of the stock fetch, which has no tag of this owner, is ignored."""
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
        """Remove a delivery that has ended and is acknowledged, or will be. One that was not recorded is ignored."""
        slot = self._slots.pop(tag, None)
        if slot is not None:
            self._write(_FREE, slot)
            self._free.append(slot)

    def close(self) -> None:
        """Stop recording."""
        os.close(self._file)

    def _write(self, content: bytes, slot: int) -> None:
        try:
            os.pwrite(self._file, content, slot)
        except OSError as error:
            if not self._failed:
                log.warning(
                    "%s can't be written (%s): tasks that kill this process are not counted",
                    self._path,
                    error.strerror,
                )
            self._failed = True


def read_begun(directory: Path) -> frozenset[int]:
    """Return the numbers of the recorded deliveries; none if there is no file."""
    try:
        content = (directory / BEGUN).read_bytes()
    except FileNotFoundError:
        return frozenset()
    slots = array.array("Q", content[: len(content) // SLOT * SLOT])
    return frozenset(slots) - {0}


def read_pending(directory: Path, owner: Owner) -> list[str]:
    """Return the tags of the node's tasks that ended without an acknowledgement, including those of earlier starts.

    Raises:
        OSError: The file can't be read.
    """
    found = {tag: owner_of(tag) for tag in pending.read(directory / pending.NAME)}
    return [tag for tag, its in found.items() if its is not None and its.node == owner.node]


def directory_of(environ: Mapping[str, str]) -> Path | None:
    """Return the runtime directory that systemd gave to this process. If the unit has several, it is the first."""
    given = environ.get(DIRECTORY_VARIABLE, "").split(":")[0]
    return Path(given) if given else None


def hold(directory: Path, *, wait: float = WAIT_FOR_LOCK) -> int:
    """Take the lock for this process and those that it forks; return its file descriptor, which must stay open.

    Raises:
        OSError: The lock is not free. TimeoutError if another process held it exclusively for ``wait`` seconds.
    """
    return _locked(directory, fcntl.LOCK_SH, wait)


def hold_exclusively(directory: Path, *, wait: float) -> int:
    """Take the lock exclusively, for a hand-back, waiting ``wait`` seconds; return its file descriptor.

    Raises:
        OSError: The lock is not free. TimeoutError if a process of the worker is still running.
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
