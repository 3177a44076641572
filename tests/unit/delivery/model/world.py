"""A model of the delivery: some hosts, their workers and one broker, and what may happen to them.

It is there to try orders of events that no test on real servers meets often enough. Nothing of it runs Celery: it
says, in some hundred lines, how a message is taken, run, acknowledged, put back, handed back, renewed and swept, and
hypothesis (`test_model.py`) draws which of these steps comes next. What is one script or one command for Redis is one
step here; what is two round trips is two, and anything may come between them.

**What is modelled.** A command lies on its connection until the server serves it (`serve`), its reply until the
client reads it (`read`). A connection that breaks (`lose`) loses both, but what was sent may still be served:
later, or never (`late`). A main process may be killed while its pool's children run on for a moment (`kill`, `bury`),
be frozen, drain, quit; a child may die with its body; a host may be cut off, die with all that it ran, and boot
without what its runtime directory held; Redis may be away for longer than the lease. Each host has a clock of its own.

**What must hold** after each step, as `BrokenError` with its kind where it does not:

* `lost`: what was sent is in a list, in `unacked`, a dead letter, or its body has ended. What a living worker has
  popped and not written yet counts as held, so that only its death is a loss.
* `doubled`: a body begins while another of the same message runs, or after one has ended. Two cases are no fault and
  are counted apart: `cut_off`, where one of the two was taken from a process that lived, but was cut off beyond its
  lease (which is renewed every third of it, so that a cut of two thirds may be enough); and `unacknowledged`, where
  the body had ended and its process died before the acknowledgement reached the broker. A body that died half-way is
  run again on purpose: `again`. Nor is anything handed back whose end its process had written down.
* `disagree`: `unacked` and `unacked_index` name the same tags.
* `uncovered`: what a living worker holds stands in `unacked`, unless it was cut off beyond its lease.
* `stolen`: nor does another worker acknowledge or put back what it holds. Kombu's tags allow that, as they go with the
  message: an owner of before can touch the delivery of today.
* `stuck`: at the end faults cease, late commands are served, and one worker that lives gets everything done.

**How far to trust it.** `design.py` has a switch for each thing that keeps a message; `test_model.py` shows that the
model with all of them on holds, and that it breaks in the expected way without each single one, stock Celery's faults
first. What it does not have: priorities, ETAs, rate limits, replicas that lose writes, memory that runs out, and the
code that really runs on hosts: that each step is one step there is for the tests with real servers to show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tests.unit.delivery.model.broker import Broker, Delivery, Message, State
from tests.unit.delivery.model.design import EVERY, LEASE, OURS, Design
from tests.unit.delivery.model.process import Connection, Host, Process

KINDS = frozenset({"lost", "doubled", "disagree", "uncovered", "stolen", "stuck"})
#: Rounds of everybody's work after which what is left counts as stuck; each takes a few seconds of the broker's clock.
ROUNDS = 60


class BrokenError(AssertionError):
    """An invariant does not hold: ``kind`` is one of `KINDS`."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


@dataclass(eq=False)
class HandBack:
    """The hand-back of a dead process between its two round trips: what it has read, and what was written down."""

    process: Process
    tags: list[str]
    written: frozenset[str]


@dataclass
class World:
    """Everything, and the ledger. ``designs`` has one for each worker, ``hosts`` the host of each.

    ``watched`` are the kinds that break; ``spared`` are workers, by their index, that meet no fault, and whose own
    faults (a visibility timeout without a lease) are counted as theirs.
    """

    designs: tuple[Design, ...] = (OURS, OURS, OURS)
    hosts: tuple[int, ...] = (0, 1, 1)
    skews: tuple[int, ...] = (0, 60)
    watched: Collection[str] = KINDS
    spared: Collection[int] = ()
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.broker = Broker()
        self.machines = [Host(skew) for skew in self.skews]
        self.sent: list[Message] = []
        self.begun: dict[int, list[Delivery]] = {}
        self.ended: set[int] = set()
        self.dead: list[Process] = []
        self.hand_backs: list[HandBack] = []
        self.starts = 0
        self.workers = [self._process(index) for index in range(len(self.designs))]

    def _process(self, index: int) -> Process:
        self.starts += 1
        host = self.machines[self.hosts[index]]
        made = Process(f"w{index}", self.starts, host, self.broker, self.designs[index])
        made.connected = not host.is_cut
        return made

    def is_spared(self, process: Process) -> bool:
        """Whether no fault may befall it."""
        return int(process.node[1:]) in self.spared

    # --- steps -------------------------------------------------------------------------------------

    def send(self, queue: str) -> None:
        """A producer's message reaches the broker, whether the producer hears of it or not."""
        message = Message(len(self.sent), queue)
        self.sent.append(message)
        self.broker.push(message)

    def connections(self) -> Iterator[Connection]:
        """All with something to serve."""
        for process in [*self.workers, *self.dead]:
            for connection in (process.poll, process.rest, *process.late):
                if connection.commands:
                    yield connection

    def late(self) -> list[Connection]:
        """Those with something to serve whose client is gone."""
        return [one for one in self.connections() if not one.open]

    def read(self, connection: Connection) -> None:
        """The client reads the oldest reply."""
        command = connection.replies.popleft()
        command.read(command.reply)

    def talk(self, process: Process) -> None:
        """All that is on its way arrives, there and back."""
        for connection in (process.poll, process.rest, process.poll, process.rest):
            while connection.commands:
                connection.serve()
            while connection.replies:
                self.read(connection)

    def begin(self, process: Process) -> None:
        """The body of what came first begins; the ledger says whether it may."""
        delivery = process.waiting()[0]
        number = delivery.message.number
        for other in self.begun.setdefault(number, []):
            self._judge(delivery, other)
        self.begun[number].append(delivery)
        process.begun.add(delivery.tag)
        delivery.state = State.RUNNING

    def _judge(self, delivery: Delivery, other: Delivery) -> None:
        if other.state is State.BROKEN:
            self.seen["again"] += 1
        elif delivery.expired or other.expired:
            self.seen["cut_off"] += 1
        elif other.state is State.ENDED and not other.owner.alive and other.gone != "acknowledged":
            self.seen["unacknowledged"] += 1
        else:
            self._break(
                "doubled",
                f"message {delivery.message.number} begins at {delivery.owner.node} as {delivery.tag},"
                f" and {other.state.value} at {other.owner.node} as {other.tag}",
            )

    def end(self, process: Process) -> None:
        """The body that runs longest ends."""
        delivery = process.running()[0]
        self.ended.add(delivery.message.number)
        process.end(delivery)

    def kill(self, process: Process) -> None:
        """kill -9 of a main process."""
        self.seen["killed"] += 1
        process.die()
        self.dead.append(process)

    def kill_child(self, process: Process, delivery: Delivery) -> None:
        """kill -9 of a child of a pool, with its body."""
        self.seen["child killed"] += 1
        process.lose_child(delivery)

    def quit(self, process: Process) -> None:
        """The orderly end of a drain, with or without a broker."""
        self.seen["quit"] += 1
        process.die()
        process.bury()
        self.dead.append(process)

    def start(self, index: int) -> None:
        """The next start of a worker; systemd waits for the children of the last one, and for its hand-back."""
        former = self.workers[index]
        if (
            former.design.lock
        ):  # it has the lock from now on, so a hand-back that was not done by now never is
            former.host = Host()
        self.workers[index] = self._process(index)

    def to_hand_back(self) -> list[Process]:
        """Dead processes whose unit may hand back now."""
        able = [one for one in self.dead if one.host in self.machines and not one.host.is_cut]
        return [one for one in able if not (one.children and one.design.lock)]

    def read_for_hand_back(self, process: Process) -> None:
        """First round trip of a hand-back: acknowledge what had ended, read what the dead process held."""
        self.seen["handed back"] += 1
        written = frozenset(process.written)
        if process.design.acknowledges_dead:
            for tag in sorted(process.written):
                self.broker.ack(tag, process)
            process.written.clear()
        held = list(self.broker.index)
        if process.design.tag_per_delivery:
            held = [tag for tag in held if process.owner.holds(tag)]
        else:
            # Kombu's tags say nothing of who holds them: a file of these would have to.
            held = [tag for tag in held if tag in {one.tag for one in process.held}]
        self.dead.remove(process)
        self.hand_backs.append(HandBack(process, held, written))
        # What it sent may still come.
        if process.late:
            self.dead.append(process)
            process.host = Host()

    def finish_hand_back(self, found: HandBack) -> None:
        """Second round trip: each goes back, if it is still there; newest first, so that the oldest runs next."""
        self.hand_backs.remove(found)
        for tag in reversed(found.tags):
            if tag in found.written and tag in self.broker.unacked:
                self._break("doubled", f"{tag} goes back, though it was written down as ended")
            self.broker.restore(tag, found.process, deaths=int(tag in found.process.begun))

    def kill_host(self, index: int) -> None:
        """Power is cut: nothing is handed back, and the runtime directory is gone."""
        self.seen["host killed"] += 1
        host = self.machines[index]
        for process in self.workers:
            if process.host is host and process.alive:
                process.die()
                self.dead.append(process)
        for process in [*self.workers, *self.dead]:
            if process.host is host:
                process.bury()
                process.host = Host(is_cut=True)
        self.hand_backs = [one for one in self.hand_backs if one.process.host in self.machines]
        host.written.clear()

    def tick(self, seconds: int, up: bool = True) -> None:
        """Time passes; whoever can reaches the broker each second, if it is up, and renews."""
        for _ in range(seconds):
            self.broker.now += 1
            for process in self.dead:
                # The kernel kills them with their parent (PR_SET_PDEATHSIG): an orphan sees no second pass.
                process.bury()
            for process in self.workers:
                if not up or not process.reaches:
                    process.in_touch = 0
                    process.cut_off += up and process.alive
                    process.missing |= not up
                else:
                    process.in_touch += 1
                    process.cut_off = 0
                    process.missing = False
                    process.renew()

    def outage(self, seconds: int) -> None:
        """The broker is away, and comes back with all that it had; all connections are gone."""
        self.seen["outage"] += 1
        for process in self.workers:
            if process.alive:
                process.lose()
        self.tick(seconds, up=False)

    def may_sweep(self, process: Process) -> bool:
        """Whether it would sweep now."""
        patient = not process.design.patient or process.in_touch > EVERY
        return process.reaches and process.connected and process.design.sweeps and patient

    def sweep(self, process: Process) -> None:
        """Put back what no lease covers any more."""
        clock = self.broker.now if process.design.broker_clock else process.score() or 0
        own = set(process.known) if process.design.spares_own else set()
        for tag in reversed(self.broker.older(clock - LEASE)):
            delivery = self.broker.unacked.get(tag)
            if tag in own:
                continue
            if delivery is not None:
                self.seen["swept"] += 1
                # Judged by what happened, not by the score: that is the worker's own claim.
                owner = delivery.owner
                # An outage counts for the lease; those who come back from it get the time of a renewal.
                enough = EVERY if owner.missing else LEASE - EVERY
                away = owner.cut_off >= enough and owner is not process
                delivery.expired = delivery.owner.alive and (away or self.is_spared(delivery.owner))
            self.broker.restore(tag, process, "swept")

    # --- what must hold ----------------------------------------------------------------------------

    def check(self) -> None:
        """All but `doubled` and `stuck`, which have their moments."""
        if set(self.broker.unacked) != set(self.broker.index):
            odd = set(self.broker.unacked) ^ set(self.broker.index)
            self._break("disagree", f"unacked and its index about {sorted(odd)}")
        for process in self.workers:
            if not process.alive or self.is_spared(process):
                continue
            for one in process.held:
                # What has ended may be acknowledged by whoever finds it written down.
                is_over = one.gone == "acknowledged" and one.state is State.ENDED
                if one.gone and not (one.expired or is_over) and one.gone_by is not process:
                    kind = "uncovered" if one.gone == "swept" else "stolen"
                    self._break(kind, f"{one.tag} of {process.node} was {one.gone} by another")
        for number in {one.number for one in self.sent} - self.ended - self._kept():
            self._break("lost", f"message {number}")

    def _kept(self) -> set[int]:
        kept = {one.number for lane in self.broker.lists.values() for one in lane}
        kept |= {one.message.number for one in self.broker.unacked.values()}
        kept |= {one.number for one in self.broker.parked}
        for process in self.workers:
            if process.alive:
                kept |= {one.message.number for one in process.held if one.state is State.POPPED}
                replies = [one.reply for one in process.poll.replies]
                kept |= {one.number for one in replies if isinstance(one, Message)}
        return kept

    def _break(self, kind: str, what: str) -> None:
        self.seen[kind] += 1
        if kind in self.watched:
            raise BrokenError(kind, what)

    # --- the end -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Faults cease; then everybody works until nothing is left."""
        for host in self.machines:
            host.is_cut = False
        for connection in self.late():
            while connection.commands:
                connection.serve()
        for index, process in enumerate(self.workers):
            process.frozen = False
            if not process.alive:
                process.bury()
                self.start(index)
        for _ in range(ROUNDS):
            for index in range(len(self.workers)):
                self._work(index)
            self.check()
            if not self.broker.unacked and not any(self.broker.lists.values()):
                return
            self.tick(3)
        left = [*self.broker.index, *self.broker.lists["mail"], *self.broker.lists["bulk"]]
        self._break("stuck", f"{left} after {ROUNDS * 3} s without a fault")

    def _work(self, index: int) -> None:
        process = self.workers[index]
        if process.may_quit() and not process.rest.commands:
            self.quit(process)
            self.start(index)
            return
        if not process.connected:
            process.reconnect(keep=True)
        if process.wants():
            process.ask()
        self.talk(process)
        if process.waiting() and not process.draining:
            self.begin(process)
        if process.running():
            self.end(process)
        process.give_back_unknown()
        if self.may_sweep(process):
            self.sweep(process)
