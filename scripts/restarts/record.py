"""Read the record of one run of the load from the database's rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Send:
    """A task that was sent. Times here and below are Unix seconds.

    Attributes:
        attempts: How often it must run; a task that retries runs twice.
        ready: When it may start; None if this is unknown beforehand (the body of a chord).
        refused: The sender was told that it could not be sent; it may run nevertheless.
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
class TaskRun:
    """One start of one attempt of a task, and its end, if it ended.

    Attributes:
        message: The message that it came with. Putting it back keeps it the same; sending again makes a new one.
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
        """Return the host in the node's name."""
        return self.node.partition("@")[2]


@dataclass(frozen=True)
class WorkerEvent:
    """A worker has started to consume (`ready`) or has been told to stop (`leaving`)."""

    node: str
    event: str
    queues: tuple[str, ...]
    processes: int
    at: float


@dataclass(frozen=True)
class Revoked:
    """A worker had a task that was revoked, and did not run it."""

    task: str
    node: str
    at: float


@dataclass(frozen=True)
class RecordMark:
    """A fault that the test caused, which may be the cause of lost or repeated tasks.

    Attributes:
        what: A description, such as `Redis was restarted`.
        host: The affected host; empty for all hosts.
        fatal: All processes of the host, or those of `node`, end because of it.
        node: The affected worker, if it is only one.
        pid: The affected process of that worker, if it is only one.
        until: When it was over; None if it had no duration.
    """

    at: float
    what: str
    host: str = ""
    fatal: bool = False
    node: str = ""
    pid: int = 0
    until: float | None = None

    def concerns(self, run: TaskRun) -> bool:
        """Check whether it affects the process of a run."""
        return self.concerns_node(run.node) and self.pid in (0, run.pid)

    def concerns_node(self, node: str) -> bool:
        """Check whether it affects a worker."""
        return self.host in ("", node.partition("@")[2]) and self.node in ("", node)

    def covers(self, at: float, before: float, after: float) -> bool:
        """Check whether a moment is within it, or within some seconds of it."""
        return self.at - before <= at <= (self.until or self.at) + after


@dataclass(frozen=True)
class HeldUp:
    """A long wait of a sender until the broker confirmed an attempt; `load.events` records it.

    Attributes:
        node: The worker that sent it, for example a retry; empty for the load's sender.
        at: When it was confirmed.
    """

    task: str
    attempt: int
    node: str
    at: float


@dataclass(frozen=True)
class LoadRecord:
    """Everything about one run of the load.

    Attributes:
        at_most_once: Queues with tasks that may be lost, but must not start twice.
    """

    sends: Sequence[Send]
    runs: Sequence[TaskRun]
    workers: Sequence[WorkerEvent]
    marks: Sequence[RecordMark] = field(default=())
    revoked: Sequence[Revoked] = field(default=())
    held_up: Sequence[HeldUp] = field(default=())
    at_most_once: frozenset[str] = frozenset()

    @classmethod
    def of(cls, rows: Mapping[str, Any]) -> LoadRecord:
        """Create a record from the database's rows in JSON; `marks` come from the test."""
        return cls(
            [Send(**row) for row in rows["sends"]],
            sorted((TaskRun(**row) for row in rows["runs"]), key=lambda run: run.started),
            [
                WorkerEvent(**{**row, "queues": tuple(row["queues"])})
                for row in sorted(rows["workers"], key=lambda row: row["at"])
            ],
            [RecordMark(**row) for row in rows.get("marks", ())],
            [Revoked(**row) for row in rows.get("revoked", ())],
            [HeldUp(**row) for row in rows.get("held_up", ())],
            frozenset(rows.get("at_most_once", ())),
        )

    @cached_property
    def left(self) -> frozenset[str]:
        """Return the revoked tasks that some worker did not run."""
        return frozenset(found.task for found in self.revoked)

    @cached_property
    def waited_for(self) -> Mapping[tuple[str, int], HeldUp]:
        """Return the waits for a confirmation, by attempt. The sender may have sent these attempts twice."""
        refused = [HeldUp(send.task, 0, "", send.sent) for send in self.sends if send.refused]
        return {(found.task, found.attempt): found for found in (*refused, *self.held_up)}

    @cached_property
    def by_attempt(self) -> Mapping[str, Mapping[int, Sequence[TaskRun]]]:
        """Return the runs by task and attempt, in the order of their starts."""
        found: dict[str, dict[int, list[TaskRun]]] = defaultdict(lambda: defaultdict(list))
        for run in self.runs:
            found[run.task][run.attempt].append(run)
        return found
