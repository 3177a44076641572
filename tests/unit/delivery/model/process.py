"""A worker's main process and its pool, as far as messages are concerned. It only uses what a real one can know."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from celery_fleet.delivery.messages import Owner
from celery_fleet.delivery.tags import Tags
from tests.unit.delivery.model.broker import Broker, Delivery, Message, State
from tests.unit.delivery.model.design import EVERY, LATE, PREFETCH, Design


@dataclass(eq=False)
class Command:
    """One round trip: what the server does, and what the caller does with the reply."""

    serve: Callable[[], object]
    read: Callable[[object], None]
    reply: object = None


@dataclass(eq=False)
class Connection:
    """Commands on their way to the server, in order, and replies on their way back.

    Once ``open`` is false its client is gone, but its commands may still be served: late, or never.
    """

    commands: deque[Command] = field(default_factory=deque)
    replies: deque[Command] = field(default_factory=deque)
    open: bool = True

    def serve(self) -> None:
        """The server executes the oldest command."""
        command = self.commands.popleft()
        command.reply = command.serve()
        if self.open:
            self.replies.append(command)


@dataclass(eq=False)
class Host:
    """What the processes of a host share. ``written``, in the runtime directory: acknowledgements to be sent again."""

    skew: int = 0
    is_cut: bool = False
    written: dict[str, set[str]] = field(default_factory=dict)


@dataclass(eq=False)
class Process:
    """One start of a worker."""

    node: str
    number: int
    host: Host
    broker: Broker
    design: Design
    #: Whether its main process lives.
    alive: bool = True
    #: Whether a child of its pool lives; when the last process ends, the lock is free.
    children: bool = True
    frozen: bool = False
    draining: bool = False
    connected: bool = False
    #: Seconds for which it could, and could not, reach a broker that was up.
    in_touch: int = 0
    cut_off: int = 0
    #: It has not reached the broker since an outage.
    missing: bool = False
    renewed: int = 0
    #: Messages that it knows, oldest first; ``doomed`` ones go back as soon as there is a connection; ``adrift`` ones
    #: have gone back and still run.
    held: list[Delivery] = field(default_factory=list)
    doomed: list[Delivery] = field(default_factory=list)
    adrift: list[Delivery] = field(default_factory=list)
    #: The tag of the fetch that is on its way; "" if only its reply will have the tag.
    outstanding: str | None = None
    #: Messages that were begun; the runtime directory has them, too.
    begun: set[str] = field(default_factory=set)
    poll: Connection = field(default_factory=Connection)
    rest: Connection = field(default_factory=Connection)
    late: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner = Owner(self.node, f"{self.number:016x}")
        self.tags = Tags(self.owner)
        self.renewed = self.broker.now

    # --- what it can do ---------------------------------------------------------------------

    @property
    def acts(self) -> bool:
        """Return whether its event loop runs."""
        return self.alive and not self.frozen

    @property
    def reaches(self) -> bool:
        """Return whether its lease thread reaches the broker."""
        return self.acts and not self.host.is_cut

    @property
    def known(self) -> list[str]:
        """Return the tags of messages that it knows as its own."""
        return [one.tag for one in self.held + self.doomed] + [self.outstanding or ""]

    @property
    def written(self) -> set[str]:
        """Return its node's acknowledgements that failed, including those of earlier starts."""
        return self.host.written.setdefault(self.node, set())

    def running(self) -> list[Delivery]:
        """Return the messages whose bodies run."""
        every = self.held + self.doomed + self.adrift
        return [one for one in every if one.state is State.RUNNING]

    def waiting(self) -> list[Delivery]:
        """Return the messages that have not begun."""
        return [one for one in self.held if one.state is State.HELD]

    def score(self) -> int | None:
        """Return the time that it sends; None means the broker's own clock."""
        return None if self.design.broker_clock else self.broker.now + self.host.skew

    # --- fetching ------------------------------------------------------------------------------------

    def wants(self) -> bool:
        """Return whether it may fetch a message."""
        return (
            self.acts
            and self.connected
            and not self.draining
            and self.outstanding is None
            and len(self.held) < PREFETCH
        )

    def ask(self) -> None:
        """Send a fetch, or a pop."""
        tag = self.outstanding = self.tags.next() if self.design.tag_per_delivery else ""
        if self.design.atomic_fetch:
            self.poll.commands.append(
                Command(lambda: self.broker.take(self, tag, self.score()), self._took)
            )
        else:
            self.poll.commands.append(Command(self.broker.pop, self._popped))

    def _took(self, reply: object) -> None:
        self.outstanding = None
        if not isinstance(reply, Delivery):
            return
        if self.draining:
            self._give_back(reply)
        else:
            self.held.append(reply)

    def _popped(self, reply: object) -> None:
        self.outstanding = None
        if not isinstance(reply, Message):
            return
        tag = self.tags.next() if self.design.tag_per_delivery else f"m{reply.number}"
        delivery = Delivery(reply, tag, self, State.POPPED)
        self.held.append(delivery)

        def written(_: object) -> None:
            delivery.state = State.HELD

        score = self.broker.now + self.host.skew
        self.rest.commands.append(Command(lambda: self.broker.write(delivery, score), written))

    # --- running -----------------------------------------------------------------------------------

    def end(self, delivery: Delivery) -> None:
        """End a body; only a living main process can acknowledge it."""
        delivery.state = State.ENDED
        if not self.alive:
            return
        if self.connected and delivery in self.held:
            self._ack(delivery)
        elif delivery in self.adrift:
            self.adrift.remove(delivery)
        elif self.design.resend:
            self.written.add(delivery.tag)
        else:
            self._forget(delivery)

    def _ack(self, delivery: Delivery) -> None:
        def acknowledged(_: object) -> None:
            self._forget(delivery)
            self.written.discard(delivery.tag)

        self.rest.commands.append(
            Command(lambda: self.broker.ack(delivery.tag, self), acknowledged)
        )

    def lose_child(self, delivery: Delivery) -> None:
        """Kill a child of the pool with its body."""
        delivery.state = State.BROKEN
        if self.connected:
            self._forget(delivery)
            self._give_back(delivery, deaths=1)

    def _forget(self, delivery: Delivery) -> None:
        for known in (self.held, self.doomed):
            if delivery in known:
                known.remove(delivery)

    def _give_back(self, delivery: Delivery, deaths: int = 0) -> None:
        def put_back() -> None:
            there = self.broker.restore(delivery.tag, self, deaths=deaths)
            if not there and not self.design.guarded:
                self.broker.lists[delivery.message.queue].append(delivery.message)

        self.rest.commands.append(Command(put_back, lambda _: None))

    # --- connections -------------------------------------------------------------------------------

    def lose(self) -> None:
        """Break all its connections; the loop notices at once."""
        self._close()
        for delivery in list(self.held):
            if delivery.state is State.POPPED:
                self._forget(delivery)
            elif delivery.state is State.ENDED:
                if self.design.resend:
                    self.written.add(delivery.tag)
                else:
                    self._forget(delivery)
            elif not self.design.carry:
                self.held.remove(delivery)
                self.doomed.append(delivery)

    def _close(self) -> None:
        self.connected = False
        self.outstanding = None
        for connection in (self.poll, self.rest):
            connection.open = False
            connection.replies.clear()
            if connection.commands:
                self.late.append(connection)
        self.poll, self.rest = Connection(), Connection()

    def reconnect(self, keep: bool) -> None:
        """Send failed acknowledgements, then put messages back; with ``keep`` it keeps those that have not begun."""
        self.connected = True
        for tag in sorted(self.written):
            known = next((one for one in self.held if one.tag == tag), None)
            if known is not None:
                self._ack(known)
            else:
                self.rest.commands.append(
                    Command(
                        lambda tag=tag: self.broker.ack(tag, self),  # type: ignore[misc]  # mypy takes no default of a lambda
                        lambda _, tag=tag: self.written.discard(tag),  # type: ignore[misc]  # mypy takes no default of a lambda
                    )
                )
        for delivery in list(self.held):
            back = delivery.state is State.HELD and (self.draining or not keep)
            if back or delivery.state is State.BROKEN:
                self.held.remove(delivery)
                self.doomed.append(delivery)
        for delivery in self.doomed:
            if delivery.state is State.RUNNING:
                self.adrift.append(delivery)
            if delivery.state is not State.ENDED:
                self._give_back(delivery, deaths=int(delivery.state is State.BROKEN))
        self.doomed.clear()

    # --- lease and sweep ---------------------------------------------------------------------------

    def renew(self) -> None:
        """Do what the lease thread does when a renewal is due."""
        if not self.design.lease or self.broker.now < self.renewed + EVERY:
            return
        self.renewed = self.broker.now
        tags = self.known
        if not self.design.renews_outstanding and self.outstanding in tags:
            tags.remove(self.outstanding)
        if not self.design.renews_known:
            tags = [tag for tag in self.broker.index if self.owner.holds(tag)]
        score = self.score()
        self.broker.renew(
            [tag for tag in tags if tag],
            self.broker.now if score is None else score,
            self.design.renews_existing,
        )

    def unknown(self) -> list[str]:
        """Return own tags of fetches that were served after their connection was gone."""
        known = set(self.known)
        if not self.design.spares_outstanding:
            known.discard(self.outstanding or "")
        return [
            tag
            for tag in self.broker.older(self.broker.now - LATE)
            if self.owner.holds(tag) and tag not in known
        ]

    def give_back_unknown(self) -> None:
        """Sweep own tags."""
        for tag in self.unknown():
            self.rest.commands.append(
                Command(lambda tag=tag: self.broker.restore(tag, self), lambda _: None)  # type: ignore[misc]  # mypy takes no default of a lambda
            )

    # --- ends --------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Put back messages that have not begun; running ones continue."""
        self.draining = True
        for delivery in self.waiting():
            if self.connected:
                self._forget(delivery)
                self._give_back(delivery)

    def may_quit(self) -> bool:
        """Return whether a drain is over: no body runs."""
        return self.acts and self.draining and self.outstanding is None and not self.running()

    def die(self) -> None:
        """End the main process; a child may outlive it for a moment."""
        self.alive = self.frozen = False
        self._close()

    def bury(self) -> None:
        """End its children, too."""
        self.children = False
        for delivery in self.running():
            delivery.state = State.BROKEN
