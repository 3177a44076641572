"""In which order workers are started, restarted and removed, so that every queue keeps enough consumers.

Pure functions over what was found when the roll began and what has happened since; who has begun or ended a turn is
written down elsewhere (`state`), and what a person is told before it begins is in `foretold`. The rules:

- What does not run is started first, all at once: that costs no queue anything.
- Then come the restarts. The first one, the pilot, goes alone: a release that does not start shows it there. After it
  at most `batch` go at a time, spread over the hosts, and each queue keeps at least `min_capacity` percent of the
  processes that the inventory wants, and at least one.
- A worker that those rules would never let go (the only one of its queue, or too large a part of it) is overlapped: a
  second instance serves while it restarts. Where it can't be, its queue has a gap: it goes while no other worker of
  its queues does.
- What the inventory no longer wants is removed last, once enough of the wanted workers consume its queues.

A worker on a host that is down counts as missing: it belongs to what the inventory wants, and serves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal, get_args

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.ranges import RANGES
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.workers import OVERLAPPING

Presence = Literal["serving", "inactive", "missing"]
Need = Literal["", "start", "restart", "remove"]
Kind = Literal["start", "restart", "remove"]

KINDS: tuple[Kind, ...] = get_args(Kind)

# What follows a worker's name in that of the instance which stands in for it; no worker's name can hold a dot.
STAND_IN = ".next"


class RollError(UserError):
    """What was asked for can't be; the message says what to change."""


@dataclass(frozen=True)
class Worker:
    """One worker of the fleet as it was found.

    Attributes:
        node: Celery's name of it, `<name>@<host>`.
        host: Inventory name of its host.
        unit: systemd's name of it.
        name: Its name in the inventory.
        queues: Queues that it consumes.
        processes: Tasks that it can run at once.
        pool: Kind of its pool.
        overlap: Whether a second instance may stand in; None decides by pool and processes.
        presence: Whether it consumes, could be made to, or is out of reach.
        need: What is to be done with it.
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

    def __post_init__(self) -> None:
        # A queue that is named twice is consumed once.
        object.__setattr__(self, "queues", tuple(dict.fromkeys(self.queues)))

    @property
    def kind(self) -> Kind | None:
        """Which kind of turn it takes: to restart what does not consume costs no more than to start it."""
        if self.need == "restart" and self.presence == "inactive":
            return "start"
        return self.need or None

    @property
    def wanted(self) -> bool:
        """Whether the inventory has it."""
        return self.need != "remove"

    @property
    def can_overlap(self) -> bool:
        """Whether a second instance may stand in for it.

        With one process a user may rely on tasks that never run side by side, so there it has to be asked for; with
        threads and gevent, too, where it has been tried less.
        """
        if self.overlap is None:
            return self.processes > 1 and self.pool == "prefork"
        return self.overlap and self.pool in OVERLAPPING


@dataclass(frozen=True)
class Policy:
    """How careful a roll is.

    Attributes:
        min_capacity: Percent of a queue's processes that keep consuming.
        batch: Turns at a time.

    Raises:
        RollError: A number is out of its range.
    """

    min_capacity: int = 50
    batch: int = 4

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
        node: Whose turn it is.
        host: Where it runs.
        kind: What is done.
        overlapped: Whether a second instance serves meanwhile.
        gap: Queues that have fewer consumers meanwhile than the policy wants.
    """

    node: str
    host: str
    kind: Kind
    overlapped: bool = False
    gap: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """How far a roll is.

    Attributes:
        workers: All of the fleet, as they were when the roll began, in the order of the inventory.
        policy: How careful it is.
        joined: Hosts that are there to take their turns; there may be more hosts than Ansible has forks.
        active: Turns under way, by node.
        ended: Turns that are over, by node.
        proved: Whether a restart has ended well, so that the others may follow.
        failed: Whether anything failed: then nothing begins any more.
    """

    workers: tuple[Worker, ...]
    policy: Policy = field(default_factory=Policy)
    joined: frozenset[str] = frozenset()
    active: Mapping[str, Turn] = field(default_factory=dict)
    ended: Mapping[str, Turn] = field(default_factory=dict)
    proved: bool = False
    failed: bool = False


class Queues:
    """Processes of each queue: how many the inventory wants, how many may be had, how many have to stay."""

    def __init__(self, workers: Iterable[Worker], policy: Policy) -> None:
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

    def short(self, worker: Worker) -> tuple[str, ...]:
        """Queues that would have too few consumers without this worker, even if all others served."""
        if not worker.wanted:
            return ()
        return tuple(
            queue
            for queue in worker.queues
            if self.reach[queue] - worker.processes < self.least[queue]
        )

    def part(self, worker: Worker) -> float:
        """The largest part of a queue that this worker is."""
        return max(worker.processes / self.reach[queue] for queue in worker.queues)


def check(workers: Sequence[Worker]) -> None:
    """Refuse what no roll can be computed from.

    Raises:
        RollError: With the worker's name.
    """
    seen: set[str] = set()
    for worker in workers:
        if worker.node in seen:
            raise RollError(f"{worker.node} is there twice: two workers can't have the same name")
        seen.add(worker.node)
        if worker.wanted and not worker.queues:
            raise RollError(f"{worker.node} consumes no queue: name one, or remove the worker")
        if worker.processes < 1:
            raise RollError(f"{worker.node} has {worker.processes} processes: it can run nothing")
        if worker.presence == "missing" and worker.need:
            raise RollError(f"{worker.node} is out of reach: it can't be told to {worker.need}")


def deferred(workers: Sequence[Worker], policy: Policy) -> dict[str, tuple[str, ...]]:
    """Workers to remove that have to stay, each with the queues that would have too few consumers without them.

    That is so where the workers which took their queues over are out of reach; a later run removes them.
    """
    queues = Queues(workers, policy)
    found = {
        worker.node: tuple(q for q in worker.queues if queues.reach[q] < queues.least.get(q, 0))
        for worker in workers
        if worker.kind == "remove" and worker.presence == "serving"
    }
    return {node: short for node, short in found.items() if short}


def waiting(state: State, kind: Kind) -> list[Worker]:
    """Workers whose turn of this kind has not begun."""
    stay = deferred(state.workers, state.policy) if kind == "remove" else {}
    return [
        worker
        for worker in state.workers
        if worker.kind == kind
        and worker.node not in state.ended
        and worker.node not in state.active
        and worker.node not in stay
    ]


def ready(state: State, kind: Kind) -> list[Turn]:
    """The turns of a kind that may begin now, all of them side by side.

    Each stays right when others of them have not begun: the fewer turns are under way, the more may begin.
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
        # The one whose loss would cost its queues the least.
        pilot = min(joined, key=lambda worker: _risk(worker, queues))
        return [_turn(pilot, kind, queues)]
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


def next_turn(state: State, host: str, kind: Kind) -> Turn | None:
    """The turn that a host may begin now, if any."""
    return next((turn for turn in ready(state, kind) if turn.host == host), None)


def _gap(worker: Worker, queues: Queues) -> bool:
    return bool(queues.short(worker)) and not worker.can_overlap


def _risk(worker: Worker, queues: Queues) -> tuple[bool, bool, float]:
    # A worker that is overlapped is missed by nobody either, but takes twice as long, with everyone waiting for it.
    return _gap(worker, queues), bool(queues.short(worker)), queues.part(worker)


def _turn(worker: Worker, kind: Kind, queues: Queues) -> Turn:
    if kind != "restart":
        return Turn(worker.node, worker.host, kind)
    short = queues.short(worker)
    if short and worker.can_overlap:
        return Turn(worker.node, worker.host, kind, overlapped=True)
    return Turn(worker.node, worker.host, kind, gap=short)


def _allowed(worker: Worker, kind: Kind, state: State, queues: Queues) -> bool:
    if worker.presence != "serving":
        return True
    if kind == "remove":
        # Other workers that are to go are no replacement.
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


def _serving(workers: Iterable[Worker], state: State) -> Counter[str]:
    """Processes that consume each queue now."""
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


def _taken_over(worker: Worker, state: State) -> bool:
    """Whether it is a stand-in which a killed run has left, and its worker's own turn has used or ended it."""
    if not worker.name.endswith(STAND_IN):
        return False
    node = f"{worker.name.removesuffix(STAND_IN)}@{worker.host}"
    turn = state.active.get(node) or state.ended.get(node)
    return turn is not None and turn.overlapped


def consumers(state: State, queues: Iterable[str]) -> dict[str, list[str]]:
    """Nodes that consume each of these queues now, as far as the roll knows."""
    return {
        queue: [
            worker.node
            for worker in state.workers
            if queue in worker.queues and _serving([worker], state)
        ]
        for queue in queues
    }
