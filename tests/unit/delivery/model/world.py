"""A model of the delivery: a few hosts, their workers, one broker, and what may happen to them.

It tries orders of events that tests on real servers rarely meet. It does not run Celery. In a few hundred lines it
describes how a message is fetched, run, acknowledged, put back, handed back, renewed and swept, and hypothesis
(`test_model.py`) draws which of these steps comes next. One script or command for Redis is one step here. Two round
trips are two steps, and anything may happen between them.

**What is modelled.** A command stays on its connection until the server serves it (`serve`), and its reply until the
client reads it (`read`). If a connection breaks (`lose`), both are lost, but a command that was sent may still be
served later (`late`). A main process may be killed while its pool's children run for another moment (`kill`, `bury`);
it may be frozen, drain or quit. A child may die with its body. A host may be cut off, or die with everything on it and
boot with an empty runtime directory. Redis may be away for longer than the lease. Each host has a separate clock.

**What must hold** after each step; otherwise `BrokenError` is raised with its kind:

* `lost`: a message that was sent is in a list, in `unacked` or a dead letter, or its body has ended. A message that a
  living worker has popped and not written yet counts as held, so only the worker's death is a loss.
* `doubled`: a body begins while another one of the same message runs, or after one has ended. Two cases are not faults
  and are counted separately. `cut_off`: one of the two was fetched from a process that was alive, but cut off for
  longer than its lease. (The lease is renewed every third of its time, so a cut of two thirds may be enough.)
  `unacknowledged`: the body had ended, and its process died before the acknowledgement reached the broker. A body that
  died half-way is run again on purpose: `again`. A message whose end its process has written down is not handed back.
* `disagree`: `unacked` and `unacked_index` name the same tags.
* `uncovered`: what a living worker holds is in `unacked`, unless the worker was cut off for longer than its lease.
* `stolen`: no other worker acknowledges or puts back what it holds. Kombu's tags allow that, because they stay with the
  message: a previous owner can touch today's delivery.
* `stuck`: at the end faults stop, late commands are served, and one living worker gets everything done.

**How far to trust it.** `design.py` has a switch for each thing that keeps a message. `test_model.py` shows that the
model holds with all of them on, and breaks in the expected way without each of them, beginning with stock Celery's
faults. It leaves out priorities, ETAs, rate limits, replicas that lose writes, and memory that runs out. Nor does it
have the code that runs on hosts: tests with real servers show that each step is a single step there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tests.unit.delivery.model.broker import Broker, Delivery, Message, State
from tests.unit.delivery.model.design import EVERY, LEASE, OURS, Design
from tests.unit.delivery.model.process import Connection, Host, Process

KINDS = frozenset({"lost", "doubled", "disagree", "uncovered", "stolen", "stuck"})
#: Rounds of work by all, after which a remaining message counts as stuck. Each takes a few seconds of the broker's
#: clock.
ROUNDS = 60


class BrokenError(AssertionError):
    """An invariant does not hold: ``kind`` is one of `KINDS`."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


@dataclass(eq=False)
class HandBack:
    """The hand-back of a dead process between its two round trips: what it has read from Redis and from disk."""

    process: Process
    tags: list[str]
    written: frozenset[str]


@dataclass
class World:
    """All hosts, workers and the broker, with the ledger. ``designs`` and ``hosts`` have an item for each worker.

    ``watched`` are the kinds that raise. ``spared`` are workers, by index, without faults; faults that they cause
    (by a visibility timeout without a lease) are counted as theirs.
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
        """Return whether it is spared from faults."""
        return int(process.node[1:]) in self.spared

    # --- steps -------------------------------------------------------------------------------------

    def send(self, queue: str) -> None:
        """A producer's message reaches the broker, whether or not the producer gets the reply."""
        message = Message(len(self.sent), queue)
        self.sent.append(message)
        self.broker.push(message)

    def connections(self) -> Iterator[Connection]:
        """Yield all connections with a command to serve."""
        for process in [*self.workers, *self.dead]:
            for connection in (process.poll, process.rest, *process.late):
                if connection.commands:
                    yield connection

    def late(self) -> list[Connection]:
        """Return the connections with a command to serve whose client is gone."""
        return [one for one in self.connections() if not one.open]

    def read(self, connection: Connection) -> None:
        """The client reads the oldest reply."""
        command = connection.replies.popleft()
        command.read(command.reply)

    def talk(self, process: Process) -> None:
        """All commands and replies on their way arrive."""
        for connection in (process.poll, process.rest, process.poll, process.rest):
            while connection.commands:
                connection.serve()
            while connection.replies:
                self.read(connection)

    def begin(self, process: Process) -> None:
        """The body of the message that came first begins; the ledger checks that it may."""
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
        """The body that has run longest ends."""
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
        """A worker starts again; systemd waits for its previous children and their hand-back."""
        former = self.workers[index]
        if (
            former.design.lock
        ):  # it has the lock from now on, so a hand-back that has not happened yet never will
            former.host = Host()
        self.workers[index] = self._process(index)

    def to_hand_back(self) -> list[Process]:
        """Return dead processes whose unit may hand back now."""
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
            # Kombu's tags do not say who holds them, so a file would have to.
            held = [tag for tag in held if tag in {one.tag for one in process.held}]
        self.dead.remove(process)
        self.hand_backs.append(HandBack(process, held, written))
        # Its commands may still arrive.
        if process.late:
            self.dead.append(process)
            process.host = Host()

    def finish_hand_back(self, found: HandBack) -> None:
        """Second round trip: put each back if it is still there, newest first, so that the oldest runs next."""
        self.hand_backs.remove(found)
        for tag in reversed(found.tags):
            if tag in found.written and tag in self.broker.unacked:
                self._break("doubled", f"{tag} goes back, though it was written down as ended")
            self.broker.restore(tag, found.process, deaths=int(tag in found.process.begun))

    def kill_host(self, index: int) -> None:
        """The power fails: nothing is handed back, and the runtime directory is gone."""
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
        """Time passes. Each second, workers that can reach the broker renew their leases."""
        for _ in range(seconds):
            self.broker.now += 1
            for process in self.dead:
                # The kernel kills them with their parent (PR_SET_PDEATHSIG), so no orphan lives for a second.
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
        """The broker goes away and comes back with all its data; all connections are gone."""
        self.seen["outage"] += 1
        for process in self.workers:
            if process.alive:
                process.lose()
        self.tick(seconds, up=False)

    def may_sweep(self, process: Process) -> bool:
        """Return whether it would sweep now."""
        patient = not process.design.patient or process.in_touch > EVERY
        return process.reaches and process.connected and process.design.sweeps and patient

    def sweep(self, process: Process) -> None:
        """Put back messages that no lease covers any more."""
        clock = self.broker.now if process.design.broker_clock else process.score() or 0
        own = set(process.known) if process.design.spares_own else set()
        for tag in reversed(self.broker.older(clock - LEASE)):
            delivery = self.broker.unacked.get(tag)
            if tag in own:
                continue
            if delivery is not None:
                self.seen["swept"] += 1
                # This is judged by what happened, not by the score, which is the worker's own claim.
                owner = delivery.owner
                # An outage counts against the lease; after it, workers get time for a renewal.
                enough = EVERY if owner.missing else LEASE - EVERY
                away = owner.cut_off >= enough and owner is not process
                delivery.expired = delivery.owner.alive and (away or self.is_spared(delivery.owner))
            self.broker.restore(tag, process, "swept")

    # --- invariants ----------------------------------------------------------------------------

    def check(self) -> None:
        """Check everything except `doubled` and `stuck`, which are checked at other times."""
        if set(self.broker.unacked) != set(self.broker.index):
            odd = set(self.broker.unacked) ^ set(self.broker.index)
            self._break("disagree", f"unacked and its index about {sorted(odd)}")
        for process in self.workers:
            if not process.alive or self.is_spared(process):
                continue
            for one in process.held:
                # A message that has ended may be acknowledged by any worker that finds it written down.
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
        """Stop all faults; then all workers work until nothing is left."""
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
