"""Describes a future roll for the plan: rounds, overlaps, gaps, and workers that stay.

These are pure functions that simulate the rules in `order` as if nothing failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ansible_collections.celery_fleet.core.plugins.module_utils import text

from ..desired.workers import OVERLAPPING
from .order import (
    KINDS,
    FleetWorker,
    Kind,
    Policy,
    Queues,
    RollSnapshot,
    Turn,
    check,
    deferred,
    ready,
)

# Number of workers that one line names.
_NAMES = 4


@dataclass(frozen=True)
class Round:
    """The turns that begin together if all turns take equally long."""

    kind: Kind
    turns: tuple[Turn, ...]


def simulate(workers: Sequence[FleetWorker], policy: Policy) -> list[Round]:
    """Return the rounds of a roll in which every host takes part and nothing fails.

    Raises:
        RollError: No roll can be computed from these workers.
    """
    check(workers)
    hosts = frozenset(worker.host for worker in workers)
    state = RollSnapshot(tuple(workers), policy, joined=hosts)
    steps: list[Round] = []
    for kind in KINDS:
        while turns := ready(state, kind):
            steps.append(Round(kind, tuple(turns)))
            ended = {**state.ended, **{turn.node: turn for turn in turns}}
            state = replace(state, ended=ended, proved=state.proved or kind == "restart")
    return steps


def describe(
    workers: Sequence[FleetWorker],
    policy: Policy,
    seconds: float = 0.0,
    candidates: Sequence[str] = (),
) -> list[str]:
    """Return what users should know before a roll begins, one sentence per line; empty without restarts.

    Args:
        workers: All workers of the fleet.
        policy: The policy of the roll.
        seconds: How long its canary is observed.
        candidates: Nodes of the workers of which the busiest will be the canary. A plan doesn't know more, because it
            asks no worker how much it has to do; then the canary of the policy is only one of them.

    Raises:
        RollError: No roll can be computed from these workers.
    """
    by_node = {worker.node: worker for worker in workers}
    restarts = [step for step in simulate(workers, policy) if step.kind == "restart"]
    queues = Queues(workers, policy)
    lines: list[str] = []
    undecided = len(candidates) > 1
    if restarts:
        count = sum(len(step.turns) for step in restarts)
        rounds = (
            f"restart in {len(restarts)} rounds, at most {policy.batch} at a time, "
            f"starting with just {'the canary' if undecided else restarts[0].turns[0].node}"
            if count > 1
            else "restarts"
        )
        lines.append(
            f"{text.count(count, 'worker')} {rounds}; each queue keeps {policy.min_capacity} % of its processes"
        )
    for turn in (turn for step in restarts for turn in step.turns):
        worker = by_node[turn.node]
        if turn.observed:
            lines.append(_observed(candidates if undecided else [turn.node], seconds))
        if turn.overlapped and not (turn.observed and undecided):
            lines.append(f"{turn.node} is overlapped: a second instance serves while it restarts")
        for queue in turn.gap:
            left = queues.reach[queue] - worker.processes
            what = (
                f"queue {queue} has {left} of {queues.total[queue]} processes"
                if left
                else f"no worker consumes queue {queue}"
            )
            lines.append(f"{what} while {turn.node} restarts{_because(worker)}")
    for node, short in deferred(workers, policy).items():
        lines.append(
            f"{node} stays for now: without it {', '.join(short)} would have too few consumers while workers of the "
            "inventory are out of reach; run again when they are back"
        )
    return lines


def _observed(nodes: Sequence[str], seconds: float) -> str:
    """Return a sentence on the canary, which is one of these nodes."""
    names = ", ".join(nodes[:_NAMES]) + (
        f" and {len(nodes) - _NAMES} more" if len(nodes) > _NAMES else ""
    )
    who = (
        f"the one of {names} that has run most tasks in the last hour" if len(nodes) > 1 else names
    )
    time = f" for {seconds:g} s" if seconds else ""
    return f"{who} is the canary: the others wait while it is observed{time}"


def _because(worker: FleetWorker) -> str:
    if worker.pool not in OVERLAPPING:
        return f" (its pool {worker.pool} can't be overlapped)"
    if worker.overlap is False:
        return " (overlap: false)"
    if worker.pool != "prefork":
        return f" (its pool is {worker.pool}: set overlap: true)"
    return " (one process: set overlap: true if two of its tasks may run side by side)"
