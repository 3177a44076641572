# ruff: noqa: SLF001  # only the scripts of the election tell what a beat asks
"""Time, hosts and faults of the simulation."""

from __future__ import annotations

import heapq
import itertools
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import redis

from celery_fleet.beat import leadership
from celery_fleet.beat.leadership import LEASE, RENEWAL, Leadership
from celery_fleet.delivery.keys import BEAT_LEADER
from scripts.beat_faults.beats import BEGIN, SimulatedBeat
from scripts.beat_faults.verdict import SKEW, Arrival, Period
from scripts.clock_changes import ENTRIES, TICK, Clock

HOSTS = 3

#: Hours between two faults, on average.
PAUSE = 4.0

#: Seconds until systemd starts a beat again, and until a host has booted.
RESTART, BOOT = 5.0, 20.0

BEFORE, AFTER = "before", "after"
DIES_BEFORE = "killed just before a message is sent"

#: The faults, with their weights.
FAULTS = {
    "stopped in order": 4,
    "killed": 4,
    DIES_BEFORE: 2,
    "killed just after a message was sent": 2,
    "frozen": 4,
    "host without power": 4,
    "all hosts without power": 1,
}


class KilledError(BaseException):
    """A simulated beat ends in the middle of a send."""


class Simulation:
    """Three beats, their clock, what will happen and what was sent.

    Attributes:
        kind: Where the schedule is: `FILE`, `DATABASE` or `REDBEAT`.
        now: The true time.
        shown: The clock of the host on which beat runs.
        faults: How often each fault has happened.
        sent: By entry, when its messages arrived, by the clock of the host that sent them, and the true time.
    """

    def __init__(self, directory: Path, client: redis.Redis, kind: str, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  # it has to be repeatable
        self.client = client
        self.url = f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"
        self.kind = kind
        self.now = BEGIN
        self.shown = Clock(BEGIN)
        self.faults: Counter[str] = Counter()
        self.sent: dict[str, list[Arrival]] = {one.name: [] for one in ENTRIES}
        self.hosts = [SimulatedHost(self, directory / f"beat{number}") for number in range(HOSTS)]
        self.expires: datetime | None = None
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in some seconds."""
        event = (self.now + timedelta(seconds=seconds), next(self._numbers), call)
        heapq.heappush(self._events, event)

    def draw(self, least: float, most: float) -> float:
        """Draw a number."""
        return self.random.uniform(least, most)

    def run(self, end: datetime) -> None:
        """Run until a time."""
        for host in self.hosts:
            host.boot()
        self._plan_fault()
        while self._events[0][0] < end:
            self.now, _, call = heapq.heappop(self._events)
            call()
        for host in self.hosts:
            host.lose_power(0.0)

    def _plan_fault(self) -> None:
        pause = self.random.expovariate(1 / (PAUSE * 3600))
        moment = self.now + timedelta(seconds=pause)
        if self.random.random() < 0.5:
            # Half of the faults come within 30 s of a slot, when they can do most harm.
            slot = moment.replace(minute=30 * (moment.minute // 30), second=0, microsecond=0)
            moment = max(self.now, slot + timedelta(minutes=30, seconds=self.draw(-30, 30)))
        self.after((moment - self.now).total_seconds(), self._fault)

    def _fault(self) -> None:
        (what,) = self.random.choices([*FAULTS], [*FAULTS.values()])
        self.faults[what] += 1
        if what == "all hosts without power":
            seconds = self.random.choice([60, 3600, 48 * 3600])
            for host in self.hosts:
                host.lose_power(self.draw(10, seconds))
                # It may also die while it makes up for what was missed.
                if self.random.random() < 0.5:
                    host.dies_at_send = self.random.choice([BEFORE, AFTER])
                    host.sends_before = self.random.randrange(30)
        else:
            # Most faults meet the beat that sends.
            leaders = [host for host in self.hosts if host.leads]
            meets = leaders and self.random.random() < 0.7
            self.random.choice(leaders if meets else self.hosts).suffer(what)
        self._plan_fault()

    # --- the lease ---

    def leader(self) -> str:
        """Return the token of the beat that has the lease, or that had it last."""
        found: Any = self.client.get(BEAT_LEADER)
        return "" if found is None else str(found.decode())

    def release(self, seconds: float) -> None:
        """The beat that sends has ended, or is frozen: its lease ends in some seconds, unless it renews it."""
        self.expires = self.now + timedelta(seconds=seconds)
        expected = self.expires

        def expire() -> None:
            if self.expires == expected:
                self.expires = None
                self.client.delete(BEAT_LEADER)
                for host in self.hosts:
                    if host.stands_by:
                        host.attempt()

        self.after(seconds, expire)


class SimulatedBroker:
    """A host's client of the broker: what its beat asks, with the faults that happen in the middle."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    def eval(self, script: str, count: int, *arguments: Any) -> Any:
        """Run a script, or die before or after that."""
        simulation, host = self._host.simulation, self._host
        client: Any = simulation.client
        if script == leadership._TAKE:
            # Real time must not end the lease.
            return client.eval(script, count, *arguments[:-1], 1000 * 24 * 3600 * 1000)
        if script != leadership._SEND:
            return client.eval(script, count, *arguments)
        queue, entry = arguments[2], arguments[count + 1]
        fault = host.dies_at_send if host.sends_before == 0 else None
        host.sends_before = max(0, host.sends_before - 1)
        if fault == BEFORE:
            host.die()
        before = client.llen(queue)
        answer = client.eval(script, count, *arguments)
        if client.llen(queue) > before:
            simulation.sent[entry].append((host.now, simulation.now))
        if fault == AFTER:
            host.die()
        return answer

    def hgetall(self, name: str) -> Any:
        """Return a hash."""
        return self._host.simulation.client.hgetall(name)


@dataclass
class SimulatedHost:
    """A host of beat.

    Attributes:
        disk: The directory of its files.
        leads: Whether its beat sends.
        stands_by: Whether its beat stands by.
        dies_at_send: Whether its beat dies `BEFORE` or `AFTER` it sends a message.
        sends_before: How many messages it sends before that one.
        up: The periods in which its beat ran.
    """

    simulation: Simulation
    disk: Path
    leads: bool = False
    stands_by: bool = False
    dies_at_send: str | None = None
    sends_before: int = 0
    up: list[Period] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._off = True
        self._skew = timedelta()
        self._beat: SimulatedBeat | None = None
        self._runs = 0
        self._since = BEGIN
        self._frozen_until: datetime | None = None

    @property
    def now(self) -> datetime:
        """What its clock shows."""
        return self.simulation.now + self._skew

    # --- starts and ends ---

    def boot(self) -> None:
        """Start, with a clock that is wrong by another time."""
        self._off = False
        self.disk.mkdir(exist_ok=True)
        self._skew = timedelta(seconds=self.simulation.draw(-SKEW, SKEW))
        self.start()

    def start(self) -> None:
        """Start its beat, if it has none: it stands by, and sends if no other does."""
        if self._off or self._beat is not None:
            return
        self._since = self.simulation.now
        self._runs += 1
        simulation = self.simulation
        simulation.shown.now = self.now
        self._beat = SimulatedBeat(
            simulation.kind,
            simulation.url,
            self.disk,
            lambda: self.now,
            Leadership(SimulatedBroker(self), self._token),
        )
        self.stands_by = True
        self.attempt()

    @property
    def _token(self) -> str:
        return f"{self.disk.name}-{self._runs}"

    def attempt(self) -> None:
        """Become the leader, if there is none; within the time that lies between two attempts."""
        self._later(self.simulation.draw(0, leadership.ATTEMPT), self._attempt)

    def _attempt(self, beat: SimulatedBeat) -> None:
        if not self.stands_by or not beat.leadership.take():
            return
        self.stands_by, self.leads = False, True
        self.simulation.expires = None
        self.simulation.shown.now = self.now
        beat.lead()
        self._tick(beat)

    def _tick(self, beat: SimulatedBeat) -> None:
        self.simulation.shown.now = self.now
        try:
            pause = beat.tick()
        except KilledError:
            self.end(RESTART)
        except SystemExit:
            self.end(RESTART, in_order=True)
        else:
            self._later(pause + TICK, self._tick)

    def _later(self, seconds: float, call: Callable[[SimulatedBeat], None]) -> None:
        """Call a function in some seconds if the same beat runs then; if it is frozen, once it is not."""
        beat = self._beat

        def called() -> None:
            if beat is None or self._beat is not beat:
                return
            if self._frozen_until is not None:
                wait = (self._frozen_until - self.simulation.now).total_seconds()
                self._later(wait + TICK, call)
            else:
                call(beat)

        self.simulation.after(seconds, called)

    def end(self, restart: float | None, *, in_order: bool = False) -> None:
        """End its beat, if it has one; start it again in some seconds."""
        if self._beat is not None:
            self._note_up()
            had_lease = self.simulation.leader() == self._token
            self._beat.close(saved=in_order)
            if in_order:
                self._beat.leadership.give_up()
            self._beat = self._frozen_until = self.dies_at_send = None
            self.leads = self.stands_by = False
            if had_lease:
                self.simulation.release(
                    0.0 if in_order else LEASE - self.simulation.draw(0, RENEWAL)
                )
        if restart is not None:
            self.simulation.after(restart, self.start)

    def _note_up(self) -> None:
        if self._frozen_until is None:
            self.up.append((self._since, self.simulation.now))

    # --- faults ---

    def die(self) -> None:
        """Kill its beat in the middle of a send.

        Raises:
            KilledError: always.
        """
        if self._beat is not None:
            self._beat.lose_unsaved()
        raise KilledError

    def suffer(self, what: str) -> None:
        """Have a fault."""
        draw = self.simulation.draw
        if what == "host without power":
            self.lose_power(draw(10, self.simulation.random.choice([60, 3600, 8 * 3600])))
        elif self._beat is None:
            return
        elif what == "stopped in order":
            self.end(draw(1, 60), in_order=True)
        elif what == "frozen":
            self._freeze(draw(1, 90))
        elif what == "killed" or not self.leads:
            self.end(RESTART)
        else:
            self.dies_at_send = BEFORE if what == DIES_BEFORE else AFTER
            self.sends_before = 0

    def lose_power(self, seconds: float) -> None:
        """Be without power for some seconds; one time in ten the disk is new afterwards."""
        if self._off:
            return
        self._off = True
        self.end(None)
        if self.simulation.random.random() < 0.1:
            shutil.rmtree(self.disk)
        self.simulation.after(seconds + BOOT, self.boot)

    def _freeze(self, seconds: float) -> None:
        if self._frozen_until is not None:
            return
        self._note_up()
        self._frozen_until = self.simulation.now + timedelta(seconds=seconds)
        if self.leads:
            self.simulation.release(LEASE - self.simulation.draw(0, RENEWAL))
        beat = self._beat

        def thaw() -> None:
            if self._beat is not beat:
                return
            self._frozen_until = None
            self._since = self.simulation.now
            if self.leads:
                # Beat may tick before its thread finds that another one has become the leader.
                self._later(self.simulation.draw(0, RENEWAL), self._renew)

        self.simulation.after(seconds, thaw)

    def _renew(self, beat: SimulatedBeat) -> None:
        if beat.leadership.stay():
            self.simulation.expires = None
        else:
            self.end(RESTART, in_order=True)
