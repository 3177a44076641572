"""What one run of the load has left in the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Send:
    """A task that was sent. Times here and below are seconds of the epoch.

    Attributes:
        attempts: How often it has to run: one that retries, twice.
        ready: When it may begin; None where nobody knows beforehand (the body of a chord).
        refused: The sender was told that it could not be sent; it may run all the same.
    """

    task: str
    kind: str
    queue: str
    seconds: float
    attempts: int
    sent: float
    ready: float | None
    refused: bool


@dataclass(frozen=True)
class Run:
    """One start of one attempt of a task, and its end, if it came to one.

    Attributes:
        message: Which it came by. One that is put back stays the same; one that is sent again is another.
    """

    task: str
    attempt: int
    node: str
    pid: int
    started: float
    ended: float | None
    retry_at: float | None
    message: str

    @property
    def host(self) -> str:
        """The second half of the node's name."""
        return self.node.partition("@")[2]


@dataclass(frozen=True)
class WorkerEvent:
    """A worker has begun to consume (`ready`) or has been told to stop (`leaving`)."""

    node: str
    event: str
    queues: tuple[str, ...]
    processes: int
    at: float


@dataclass(frozen=True)
class Revoked:
    """A worker had a task that was revoked, and left it."""

    task: str
    node: str
    at: float


@dataclass(frozen=True)
class Mark:
    """What the test did to the fleet, for the causes.

    Attributes:
        what: In words, such as `Redis was restarted`.
        host: Where; empty for what concerns all.
        fatal: All processes of the host, or those of `node`, end by it.
        node: The one worker that it concerns, if it is one.
        pid: The one process of that worker, if it is one.
        until: When it was over; None is at once.
    """

    at: float
    what: str
    host: str = ""
    fatal: bool = False
    node: str = ""
    pid: int = 0
    until: float | None = None

    def concerns(self, run: Run) -> bool:
        """Check whether the process of a run is among those that it was done to."""
        return self.concerns_node(run.node) and self.pid in (0, run.pid)

    def concerns_node(self, node: str) -> bool:
        """Check whether a worker is among those that it was done to."""
        return self.host in ("", node.partition("@")[2]) and self.node in ("", node)

    def covers(self, at: float, before: float, after: float) -> bool:
        """Check whether a moment lies in it, or within some seconds of it."""
        return self.at - before <= at <= (self.until or self.at) + after


@dataclass(frozen=True)
class HeldUp:
    """The sender of an attempt waited for long until it was told that the broker has it; `load.events` notes that.

    Attributes:
        node: The worker that sent it, as with a retry; empty if it was the load's sender.
        at: When it was told.
    """

    task: str
    attempt: int
    node: str
    at: float


@dataclass(frozen=True)
class Record:
    """All of one run of the load.

    Attributes:
        at_most_once: Queues whose tasks may be lost, and may not be begun again.
    """

    sends: Sequence[Send]
    runs: Sequence[Run]
    workers: Sequence[WorkerEvent]
    marks: Sequence[Mark] = field(default=())
    revoked: Sequence[Revoked] = field(default=())
    held_up: Sequence[HeldUp] = field(default=())
    at_most_once: frozenset[str] = frozenset()

    @classmethod
    def of(cls, rows: Mapping[str, Any]) -> Record:
        """From rows as the database gives them in JSON; `marks` are the test's own."""
        return cls(
            [Send(**row) for row in rows["sends"]],
            sorted((Run(**row) for row in rows["runs"]), key=lambda run: run.started),
            [
                WorkerEvent(**{**row, "queues": tuple(row["queues"])})
                for row in sorted(rows["workers"], key=lambda row: row["at"])
            ],
            [Mark(**row) for row in rows.get("marks", ())],
            [Revoked(**row) for row in rows.get("revoked", ())],
            [HeldUp(**row) for row in rows.get("held_up", ())],
            frozenset(rows.get("at_most_once", ())),
        )

    @cached_property
    def left(self) -> frozenset[str]:
        """Tasks that some worker left, since they were revoked."""
        return frozenset(found.task for found in self.revoked)

    @cached_property
    def waited_for(self) -> Mapping[tuple[str, int], HeldUp]:
        """Attempts whose sender was held up: it was not told that the broker has the message, and sent it again."""
        refused = [HeldUp(send.task, 0, "", send.sent) for send in self.sends if send.refused]
        return {(found.task, found.attempt): found for found in (*refused, *self.held_up)}

    @cached_property
    def by_attempt(self) -> Mapping[str, Mapping[int, Sequence[Run]]]:
        """Task -> attempt -> its runs in the order of their starts."""
        found: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
        for run in self.runs:
            found[run.task][run.attempt].append(run)
        return found
