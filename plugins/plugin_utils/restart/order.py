"""Decides in which order workers are started, restarted and removed, so that every queue keeps enough consumers.

Pure functions of the workers at the beginning of the roll and of the turns since. `state` stores the turns, and
`forecast` describes a roll before it begins. The rules:

- Workers that don't run are started first, all at once, because this does not reduce any queue's capacity.
- Then workers restart. The first one, the pilot, restarts by itself, so that a release that does not start fails
  there. In a deploy the pilot is the canary, which is observed for some time; see `canary`. After it, at most `batch`
  workers restart at a time, spread over the hosts. Each queue keeps at least one process, and at least `min_capacity`
  percent of those in the inventory.
- Some workers could never restart by these rules, because their queue has no other worker or too few other processes.
  Such a worker is overlapped: a second instance serves while it restarts. If that is not possible, its queue has a gap:
  the worker restarts while no other worker of its queues does.
- Workers that are no longer in the inventory are removed last, when enough of the other workers consume their queues.

A worker on a host that is down counts as missing: the inventory wants it, but it serves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal, get_args

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from ..desired.ranges import RANGES
from ..desired.workers import OVERLAPPING

Presence = Literal["serving", "inactive", "missing"]
Need = Literal["", "start", "restart", "remove"]
Kind = Literal["start", "restart", "remove"]

KINDS: tuple[Kind, ...] = get_args(Kind)

# Suffix of the name of a worker's second instance. The names of workers contain no dot.
STAND_IN = ".next"


class RollError(UserError):
    """The requested roll is impossible. The message says what to change."""


@dataclass(frozen=True)
class FleetWorker:
    """One worker of the fleet, as it was when the roll began.

    Attributes:
        node: Celery's node name, `<name>@<host>`.
        host: Inventory name of its host.
        unit: Name of its systemd unit.
        name: Name in the inventory.
        queues: Queues that it consumes.
        processes: Number of tasks that it can run at once.
        pool: Kind of pool.
        overlap: Whether a second instance may run; None to decide by pool and processes.
        presence: Whether it consumes, is stopped, or is out of reach.
        need: The action that it needs.
        busy: Number of tasks that ended in it in the last hour, as far as it says.
    """

    node: str
    host: str
    unit: str
    name: str
    queues: tuple[str, ...]
    processes: int = 1
    pool: str = "prefork"
    overlap: bool | None = None
    presence: Presence = "serving"
    need: Need = ""
    busy: int = 0

    def __post_init__(self) -> None:
        # A queue that is listed twice is consumed once.
        object.__setattr__(self, "queues", tuple(dict.fromkeys(self.queues)))

    @property
    def kind(self) -> Kind | None:
        """Return the kind of its turn. Restarting a worker that does not consume costs no more than a start."""
        if self.need == "restart" and self.presence == "inactive":
            return "start"
        return self.need or None

    @property
    def wanted(self) -> bool:
        """Return whether it is in the inventory."""
        return self.need != "remove"

    @property
    def can_overlap(self) -> bool:
        """Return whether a second instance may serve while it restarts.

        Users may rely on a worker with one process to run one task at a time, so there they have to request it. The
        same applies to threads and gevent, with which it was tested less.
        """
        if self.overlap is None:
            return self.processes > 1 and self.pool == "prefork"
        return self.overlap and self.pool in OVERLAPPING


@dataclass(frozen=True)
class Policy:
    """Limits of a roll.

    Attributes:
        min_capacity: Percentage of a queue's processes that keep consuming.
        batch: Number of turns at a time.
        canary: Node of the worker to observe first; None to observe none.

    Raises:
        RollError: A number is out of its range.
    """

    min_capacity: int = 50
    batch: int = 4
    canary: str | None = None

    def __post_init__(self) -> None:
        chosen = {
            "celery_restart_min_capacity": self.min_capacity,
            "celery_restart_batch": self.batch,
        }
        for name, number in chosen.items():
            if RANGES[name].violation(number):
                raise RollError(f"{name} is {number}; {RANGES[name].remedy}")


@dataclass(frozen=True)
class Turn:
    """One worker's start, restart or removal.

    Attributes:
        node: Node name of the worker.
        host: Its host.
        kind: Kind of turn.
        overlapped: Whether a second instance serves during the turn.
        gap: Queues that have fewer consumers during the turn than the policy requires.
        observed: Whether it is the canary's.
    """

    node: str
    host: str
    kind: Kind
    overlapped: bool = False
    gap: tuple[str, ...] = ()
    observed: bool = False


@dataclass(frozen=True)
class RollSnapshot:
    """The progress of a roll at one moment.

    Attributes:
        workers: All workers of the fleet, as they were when the roll began, in the order of the inventory.
        policy: Limits of the roll.
        joined: Hosts that are ready for their turns. There may be more hosts than Ansible has forks.
        active: Running turns, by node.
        ended: Ended turns, by node.
        proved: Whether a restart has succeeded, so that the others may follow.
        failed: Whether anything failed; then no more turns begin.
    """

    workers: tuple[FleetWorker, ...]
    policy: Policy = field(default_factory=Policy)
    joined: frozenset[str] = frozenset()
    active: Mapping[str, Turn] = field(default_factory=dict)
    ended: Mapping[str, Turn] = field(default_factory=dict)
    proved: bool = False
    failed: bool = False


class Queues:
    """Numbers of processes of each queue: wanted by the inventory, available, and required to stay."""

    def __init__(self, workers: Iterable[FleetWorker], policy: Policy) -> None:
        self.total: Counter[str] = Counter()
        self.reach: Counter[str] = Counter()
        for worker in workers:
            if not worker.wanted:
                continue
            there = worker.presence == "serving" or worker.need != ""
            for queue in worker.queues:
                self.total[queue] += worker.processes
                self.reach[queue] += worker.processes if there else 0
        self.least = {
            queue: max(1, ceil(policy.min_capacity * total / 100))
            for queue, total in self.total.items()
        }

    def short(self, worker: FleetWorker) -> tuple[str, ...]:
        """Return the queues that would have too few consumers without this worker, even if all others served."""
        if not worker.wanted:
            return ()
        return tuple(
            queue
            for queue in worker.queues
            if self.reach[queue] - worker.processes < self.least[queue]
        )

    def part(self, worker: FleetWorker) -> float:
        """Return the largest share that this worker has of any of its queues."""
        return max(worker.processes / self.reach[queue] for queue in worker.queues)


def check(workers: Sequence[FleetWorker]) -> None:
    """Refuse workers from which no roll can be computed.

    Raises:
        RollError: A worker is invalid; the message names it.
    """
    seen: set[str] = set()
    for worker in workers:
        if worker.node in seen:
            raise RollError(f"{worker.node} is defined twice: two workers can't have the same name")
        seen.add(worker.node)
        if worker.wanted and not worker.queues:
            raise RollError(f"{worker.node} consumes no queue: name one, or remove the worker")
        if worker.processes < 1:
            raise RollError(
                f"{worker.node} has {worker.processes} processes: it can't run any task"
            )
        if worker.presence == "missing" and worker.need:
            raise RollError(f"{worker.node} is out of reach: it can't be told to {worker.need}")


def deferred(workers: Sequence[FleetWorker], policy: Policy) -> dict[str, tuple[str, ...]]:
    """Return workers that should be removed but have to stay, with the queues that would have too few consumers.

    This happens if the workers that took over their queues are out of reach. A later run removes them.
    """
    queues = Queues(workers, policy)
    found = {
        worker.node: tuple(q for q in worker.queues if queues.reach[q] < queues.least.get(q, 0))
        for worker in workers
        if worker.kind == "remove" and worker.presence == "serving"
    }
    return {node: short for node, short in found.items() if short}


def waiting(state: RollSnapshot, kind: Kind) -> list[FleetWorker]:
    """Return the workers that still wait for their turn of this kind."""
    stay = deferred(state.workers, state.policy) if kind == "remove" else {}
    return [
        worker
        for worker in state.workers
        if worker.kind == kind
        and worker.node not in state.ended
        and worker.node not in state.active
        and worker.node not in stay
    ]


def ready(state: RollSnapshot, kind: Kind) -> list[Turn]:
    """Return the turns of a kind that may begin now, all at the same time.

    Each may also begin without the others: the fewer turns are running, the more may begin.
    """
    if state.failed:
        return []
    joined = [worker for worker in waiting(state, kind) if worker.host in state.joined]
    if kind == "start":
        return [Turn(worker.node, worker.host, kind) for worker in joined]
    queues = Queues(state.workers, state.policy)
    if kind == "restart" and not state.proved:
        if state.active or not joined:
            return []
        # Choose the worker that its queues would miss least, or the canary if its host is there.
        chosen = state.policy.canary
        pilot = min(joined, key=lambda worker: (worker.node != chosen, _risk(worker, queues)))
        return [_turn(pilot, kind, queues, observed=chosen is not None)]
    found: list[Turn] = []
    while len(state.active) < state.policy.batch:
        busy = Counter(turn.host for turn in state.active.values())
        joined.sort(key=lambda worker: (busy[worker.host], _gap(worker, queues)))
        turn = next(
            (
                _turn(worker, kind, queues)
                for worker in joined
                if _allowed(worker, kind, state, queues)
            ),
            None,
        )
        if turn is None:
            break
        found.append(turn)
        state = replace(state, active={**state.active, turn.node: turn})
        joined = [worker for worker in joined if worker.node != turn.node]
    return found


def next_turn(state: RollSnapshot, host: str, kind: Kind) -> Turn | None:
    """Return the turn that a host may begin now, or None."""
    return next((turn for turn in ready(state, kind) if turn.host == host), None)


def _gap(worker: FleetWorker, queues: Queues) -> bool:
    return bool(queues.short(worker)) and not worker.can_overlap


def _risk(worker: FleetWorker, queues: Queues) -> tuple[bool, bool, float]:
    # An overlapped worker costs no capacity either, but takes twice as long, and all others wait for it.
    return _gap(worker, queues), bool(queues.short(worker)), queues.part(worker)


def _turn(worker: FleetWorker, kind: Kind, queues: Queues, *, observed: bool = False) -> Turn:
    if kind != "restart":
        return Turn(worker.node, worker.host, kind)
    short = queues.short(worker)
    # A canary runs beside the old release, so that both are compared, and nothing has moved if it is refused.
    if (short or observed) and worker.can_overlap:
        return Turn(worker.node, worker.host, kind, overlapped=True, observed=observed)
    return Turn(worker.node, worker.host, kind, gap=short, observed=observed)


def _allowed(worker: FleetWorker, kind: Kind, state: RollSnapshot, queues: Queues) -> bool:
    if worker.presence != "serving":
        return True
    if kind == "remove":
        # Other workers that will be removed don't count as replacements.
        wanted = _serving([other for other in state.workers if other.wanted], state)
        return all(wanted[queue] >= queues.least.get(queue, 0) for queue in worker.queues)
    short = queues.short(worker)
    if short and worker.can_overlap:
        return True
    if short:
        own = set(worker.queues)
        return not any(
            own & set(other.queues) for other in state.workers if other.node in state.active
        )
    serving = _serving(state.workers, state)
    return all(serving[queue] - worker.processes >= queues.least[queue] for queue in worker.queues)


def _serving(workers: Iterable[FleetWorker], state: RollSnapshot) -> Counter[str]:
    """Return the number of processes that consume each queue now."""
    found: Counter[str] = Counter()
    for worker in workers:
        turn = state.active.get(worker.node)
        if turn is not None:
            up = turn.overlapped
        elif _taken_over(worker, state):
            up = False
        elif worker.node in state.ended:
            up = worker.wanted
        else:
            up = worker.presence == "serving"
        if up:
            found.update(dict.fromkeys(worker.queues, worker.processes))
    return found


def _taken_over(worker: FleetWorker, state: RollSnapshot) -> bool:
    """Return whether this is a second instance of a killed run that its worker's own turn has used or ended."""
    if not worker.name.endswith(STAND_IN):
        return False
    node = f"{worker.name.removesuffix(STAND_IN)}@{worker.host}"
    turn = state.active.get(node) or state.ended.get(node)
    return turn is not None and turn.overlapped


def consumers(state: RollSnapshot, queues: Iterable[str]) -> dict[str, list[str]]:
    """Return the nodes that consume each of these queues now, according to the roll's state."""
    return {
        queue: [
            worker.node
            for worker in state.workers
            if queue in worker.queues and _serving([worker], state)
        ]
        for queue in queues
    }
