"""The figures of one run of the load, as they are kept and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import judge, measure
from .record import Record

AFTER = 10.0  # seconds: what a restart delays is ready during it or shortly after


@dataclass(frozen=True)
class Rules:
    """What a roll keeps to, for its critical path.

    Attributes:
        capacity: Queue -> processes that consume it when all is well.
        minimum: celery_restart_min_capacity as a share.
        batch: celery_restart_batch.
    """

    capacity: Mapping[str, int]
    minimum: float
    batch: int


@dataclass(frozen=True)
class Origin:
    """What a run was run by; see `Summary`."""

    commit: str = ""
    scenario: str = ""
    command: str = ""


@dataclass(frozen=True)
class Summary:
    """One run of the load.

    Attributes:
        name: Of the case: `roll`, or what was done to the fleet.
        way: How the workers were run.
        seed: Of the load.
        sent: Tasks sent, and accepted by the broker.
        done: Those that came to the end of their last attempt.
        lost: Those that did not; `doubled` is attempts that ran more than once. Both by cause below.
        waits: Percentile (`p50`, `p99`, `longest`) -> seconds, of what was ready from the beginning of the restart
            until `AFTER` its end.
        restart: Begin and end of it, in seconds since the first task was sent.
        fewest: Queue -> fewest processes that consumed it meanwhile.
        roll: Seconds from the first worker's stop until all consume and the command has ended; None where none was
            restarted.
        critical: Seconds that the same drains and boots take under the rules of the roll; None for stock units.
        series: What the picture shows.
        revoked: Of `done` those that were revoked and did not begin.
        unheeded: Those that were revoked and began later all the same, by cause.
        dropped: Of `sent` those that may be lost, and were, by cause: they are run at most once.
        faults: How often something was done to the fleet.
        commit: Of the checkout that was run, with `-dirty` if it had changes.
        made: When, as ISO 8601 has it, in UTC.
        scenario: Whose test it was; `command` runs it again.
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
        """Return what was doubled by causes other than these, which are compared word by word."""
        return {
            cause: number for cause, number in self.doubled_causes.items() if cause not in allowed
        }

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, allow_nan=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Summary:
        """Read what `write` wrote."""
        found = json.loads(path.read_text())
        found["series"] = measure.Series(**found["series"])
        found["restart"] = tuple(found["restart"])
        return cls(**found)


def waits_between(record: Record, begin: float, end: float) -> dict[str, float]:
    """Percentiles of the waits of what became ready between two moments."""
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
    record: Record,
    restart: tuple[float, float],
    rules: Rules | None = None,
    report: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> Summary:
    """All figures of one run.

    Args:
        name: Of the case.
        way: How the workers were run.
        seed: Of the load.
        record: What was sent, begun and ended.
        restart: Moments at which the restart, or the fault, began and was over.
        rules: Of the roll, where it has some.
        report: The roll's own.
        origin: What it was run by.
    """
    began, ended = restart
    lost, dropped, doubled = judge.lost(record), judge.dropped(record), judge.doubled(record)
    accepted = [send for send in record.sends if not send.refused]
    first = min(send.sent for send in record.sends)
    last = max(send.sent for send in record.sends)
    turns = measure.turns(record, began, ended + AFTER)
    # A stock unit's restart returns before its workers consume; the fleet's only after the last gate.
    roll = max(ended, *(turn.back for turn in turns)) - turns[0].left if turns else None
    critical = None
    if rules is not None and turns:
        critical = measure.critical_path(turns, rules.capacity, rules.minimum, rules.batch)
    return Summary(
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
