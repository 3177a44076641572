"""The figures of one run of the load, as they are stored and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import judge, measure
from .record import LoadRecord

AFTER = 10.0  # seconds: tasks that a restart delays become ready during it or shortly after


@dataclass(frozen=True)
class Rules:
    """The rules of a roll, for its critical path.

    Attributes:
        capacity: By queue, the number of processes that consume it when all is well.
        minimum: celery_restart_min_capacity as a share.
        batch: celery_restart_batch.
    """

    capacity: Mapping[str, int]
    minimum: float
    batch: int


@dataclass(frozen=True)
class Origin:
    """The code and the command that made a run; see `RestartSummary`."""

    commit: str = ""
    scenario: str = ""
    command: str = ""


@dataclass(frozen=True)
class RestartSummary:
    """One run of the load.

    Attributes:
        name: The case: `roll`, or the fault.
        way: How the workers were run.
        seed: The seed of the load.
        sent: Number of tasks that were sent and that the broker accepted.
        done: Number of them that completed their last attempt.
        refused: Number of tasks that the broker did not accept.
        lost: Number of tasks that did not complete, and `lost_causes` their number by cause.
        doubled: Number of attempts that ran more than once, and `doubled_causes` their number by cause.
        waits: Seconds by percentile (`p50`, `p99`, `longest`), for tasks that became ready between the start of the
            restart and `AFTER` its end.
        restart: Its start and end, in seconds since the first task was sent.
        fewest: By queue, the fewest processes that consumed it during that time.
        roll: Seconds from the first worker's stop until all consume and the command has ended; None if no worker was
            restarted.
        critical: Seconds that the same drains and boots take under the rules of the roll; None for stock units.
        series: The data of the picture.
        report: The roll's own report.
        revoked: Number of tasks in `done` that were revoked and did not start.
        unheeded: By cause, the tasks that were revoked and started later nevertheless.
        dropped: By cause, the tasks in `sent` that may be lost because they run at most once, and were.
        faults: How often something was done to the fleet.
        commit: The checkout's commit, with `-dirty` if it had changes.
        made: When it was made, in ISO 8601 and UTC.
        scenario: The scenario of its test; `command` runs it again.
        tests: The tests that judged it, each `passed` or `failed`; empty until then.
    """

    name: str
    way: str
    seed: int
    sent: int
    done: int
    refused: int
    lost: int
    lost_causes: Mapping[str, int]
    doubled: int
    doubled_causes: Mapping[str, int]
    waits: Mapping[str, float]
    restart: tuple[float, float]
    fewest: Mapping[str, int]
    roll: float | None
    critical: float | None
    series: measure.Series
    report: Mapping[str, Any]
    revoked: int = 0
    unheeded: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    faults: int = 0
    commit: str = ""
    made: str = ""
    scenario: str = ""
    command: str = ""
    tests: Mapping[str, str] = field(default_factory=dict)

    def unexpected(self, allowed: Collection[str]) -> dict[str, int]:
        """Return the doubled attempts with causes other than these, which must match word by word."""
        return {
            cause: number for cause, number in self.doubled_causes.items() if cause not in allowed
        }

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, allow_nan=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> RestartSummary:
        """Read what `write` wrote."""
        found = json.loads(path.read_text())
        found["series"] = measure.Series(**found["series"])
        found["restart"] = tuple(found["restart"])
        return cls(**found)


def waits_between(record: LoadRecord, begin: float, end: float) -> dict[str, float]:
    """Return percentiles of the waits of tasks that became ready between two moments."""
    found = measure.waits(record, begin, end)
    return {
        "p50": measure.percentile(found, 0.5),
        "p99": measure.percentile(found, 0.99),
        "longest": max(found, default=math.nan),
    }


def summarise(
    name: str,
    way: str,
    seed: int,
    record: LoadRecord,
    restart: tuple[float, float],
    rules: Rules | None = None,
    report: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> RestartSummary:
    """Return all figures of one run.

    Args:
        name: The case.
        way: How the workers were run.
        seed: The seed of the load.
        record: The record of the run.
        restart: When the restart or the fault started, and when it was over.
        rules: The rules of the roll, if it has some.
        report: The roll's own report.
        origin: The code and the command that made the run.
    """
    began, ended = restart
    lost, dropped, doubled = judge.lost(record), judge.dropped(record), judge.doubled(record)
    accepted = [send for send in record.sends if not send.refused]
    first = min(send.sent for send in record.sends)
    last = max(send.sent for send in record.sends)
    turns = measure.turns(record, began, ended + AFTER)
    # A stock unit's restart returns before its workers consume; the fleet's returns only when they all do.
    roll = max(ended, *(turn.back for turn in turns)) - turns[0].left if turns else None
    critical = None
    if rules is not None and turns:
        critical = measure.critical_path(turns, rules.capacity, rules.minimum, rules.batch)
    return RestartSummary(
        name=name,
        way=way,
        seed=seed,
        sent=len(accepted),
        done=len(accepted) - len(lost) - len(dropped),
        refused=len(record.sends) - len(accepted),
        lost=len(lost),
        lost_causes=judge.causes(lost),
        doubled=len(doubled),
        doubled_causes=judge.causes(doubled),
        waits=waits_between(record, began, ended + AFTER),
        restart=(began - first, ended - first),
        fewest=measure.fewest_consumers(record, began, ended + AFTER),
        roll=roll,
        critical=critical,
        series=measure.series(record, first, last),
        report=dict(report or {}),
        revoked=judge.revoked(record),
        unheeded=judge.causes(judge.unheeded(record)),
        dropped=judge.causes(dropped),
        faults=len(record.marks),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(origin or Origin()),
    )
