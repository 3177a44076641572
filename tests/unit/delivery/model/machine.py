"""The steps of the model as hypothesis draws them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Concatenate, ParamSpec

import hypothesis.strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.unit.delivery.model.broker import Delivery
from tests.unit.delivery.model.design import OURS, Design
from tests.unit.delivery.model.process import Connection, Process
from tests.unit.delivery.model.world import KINDS, HandBack, World

MOST_SENT = 6
#: Each run draws some of these faults, up to this number: with all of them at once, runs would make no progress.
FAULTS = ("lose", "kill", "kill_child", "kill_host", "cut", "freeze", "outage", "drain")
MOST_FAULTS = 7

_P = ParamSpec("_P")


def step(
    able: Callable[[Machine], Sequence[Any]], fault: str = ""
) -> Callable[[Callable[Concatenate[Machine, Any, _P], None]], Any]:
    """Make a rule that acts on one of the candidates; it is not drawn while there is none."""

    def is_possible(self: Machine) -> bool:
        return (not fault or (fault in self.faults and self.left > 0)) and bool(able(self))

    def decorate(run: Callable[Concatenate[Machine, Any, _P], None]) -> Any:
        @functools.wraps(run)
        def drawn(self: Machine, which: int, *args: _P.args, **kwargs: _P.kwargs) -> None:
            self.left -= bool(fault)
            found = able(self)
            run(self, found[which % len(found)], *args, **kwargs)

        # Hypothesis inspects the parameters of the rule.
        del drawn.__wrapped__  # type: ignore[attr-defined]  # hypothesis adds it
        more = {"keep": st.booleans()} if run.__name__ == "reconnect" else {}
        return precondition(is_possible)(rule(which=st.integers(0, 11), **more)(drawn))

    return decorate


class Machine(RuleBasedStateMachine):
    """One run: a world and steps in it, as many as hypothesis draws; then everything must get done."""

    designs: ClassVar[tuple[Design, ...]] = (OURS, OURS, OURS)
    watched: ClassVar[Collection[str]] = KINDS
    chosen: ClassVar[Collection[str]] = ()
    spared: ClassVar[Collection[int]] = ()
    seen: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.faults: frozenset[str] = frozenset()
        self.left = MOST_FAULTS
        self.world = World(
            self.designs,
            # Stock uses its host's clock, ours the broker's.
            skews=(60, 0) if self.spared else (0, 60),
            watched=self.watched,
            spared=self.spared,
            seen=type(self).seen,
        )

    @initialize(faults=st.frozensets(st.sampled_from(FAULTS), min_size=1, max_size=4))
    def draw_faults(self, faults: frozenset[str]) -> None:
        self.faults = frozenset(self.chosen) or faults
        self.world.send("mail")

    def teardown(self) -> None:
        self.world.settle()

    @invariant()
    def holds(self) -> None:
        self.world.check()

    # --- candidates ---------------------------------------------------------------------------------------

    def living(self) -> list[Process]:
        return [one for one in self.world.workers if one.alive]

    def exposed(self) -> list[Process]:
        return [one for one in self.living() if not self.world.is_spared(one)]

    def beginning(self) -> list[Process]:
        able = [one for one in self.living() if one.acts and not one.draining]
        return [one for one in able if one.waiting()]

    def running(self) -> list[Process]:
        orphaned = [one for one in self.world.dead if one.children]
        return [one for one in self.living() + orphaned if one.running()]

    def readable(self) -> list[Connection]:
        able = [one for one in self.living() if one.reaches]
        return [each for one in able for each in (one.poll, one.rest) if each.replies]

    def exposed_hosts(self) -> list[int]:
        spared = {self.world.hosts[one] for one in self.spared}
        return sorted({0, 1} - spared)

    # --- normal steps ----------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.sent) < MOST_SENT)
    @rule(queue=st.sampled_from(["mail", "bulk"]))
    def send(self, queue: str) -> None:
        self.world.send(queue)

    @step(lambda self: [one for one in self.living() if one.wants()])
    def ask(self, process: Process) -> None:
        process.ask()

    @step(lambda self: list(self.world.connections()))
    def serve(self, connection: Connection) -> None:
        connection.serve()

    @step(readable)
    def read(self, connection: Connection) -> None:
        self.world.read(connection)

    @step(beginning)
    def begin(self, process: Process) -> None:
        self.world.begin(process)

    @step(running)
    def end(self, process: Process) -> None:
        self.world.end(process)

    @step(lambda self: [one for one in self.living() if one.reaches and one.wants()])
    def take_and_begin(self, process: Process) -> None:
        """Nothing happens in between, as in most fetches; this way a run gets further."""
        process.ask()
        self.world.talk(process)
        if process.waiting():
            self.world.begin(process)

    @step(lambda self: [one for one in self.living() if one.connected and one.running()])
    def end_and_acknowledge(self, process: Process) -> None:
        """The same for the end of a body."""
        self.world.end(process)
        if process.reaches:
            self.world.talk(process)

    @rule(seconds=st.sampled_from([1, 4, 7, 20]))
    def tick(self, seconds: int) -> None:
        self.world.tick(seconds)

    @step(lambda self: [one for one in self.living() if self.world.may_sweep(one)])
    def sweep(self, process: Process) -> None:
        self.world.sweep(process)

    @step(lambda self: [one for one in self.living() if one.reaches and one.unknown()])
    def give_back_unknown(self, process: Process) -> None:
        process.give_back_unknown()

    @step(lambda self: [one for one in self.living() if one.reaches and not one.connected])
    def reconnect(self, process: Process, keep: bool) -> None:
        process.reconnect(keep)

    @step(lambda self: [n for n, p in enumerate(self.world.workers) if not p.children])
    def start(self, index: int) -> None:
        self.world.start(index)

    # --- faults, and their repair --------------------------------------------------------

    @step(lambda self: [one for one in self.exposed() if one.connected], "lose")
    def lose(self, process: Process) -> None:
        process.lose()

    @step(lambda self: self.world.late())
    def drop_what_is_late(self, connection: Connection) -> None:
        connection.commands.clear()

    @step(exposed, "kill")
    def kill(self, process: Process) -> None:
        self.world.kill(process)

    @step(lambda self: [one for one in self.world.dead if one.children])
    def bury(self, process: Process) -> None:
        process.bury()

    @step(lambda self: self.world.to_hand_back())
    def hand_back(self, process: Process) -> None:
        self.world.read_for_hand_back(process)

    @step(lambda self: self.world.hand_backs)
    def finish_hand_back(self, found: HandBack) -> None:
        self.world.finish_hand_back(found)

    @step(lambda self: self.world.to_hand_back())
    def hand_back_at_once(self, process: Process) -> None:
        """Nothing happens between its two round trips."""
        self.world.read_for_hand_back(process)
        self.world.finish_hand_back(self.world.hand_backs[-1])

    @step(
        lambda self: [(one, each) for one in self.exposed() if one.acts for each in one.running()],
        "kill_child",
    )
    def kill_child(self, found: tuple[Process, Delivery]) -> None:
        self.world.kill_child(*found)

    @step(lambda self: [one for one in self.exposed() if one.acts and not one.draining], "drain")
    def drain(self, process: Process) -> None:
        process.drain()

    @step(lambda self: [one for one in self.living() if one.may_quit()])
    def quit(self, process: Process) -> None:
        self.world.quit(process)

    @step(exposed, "freeze")
    def freeze_or_thaw(self, process: Process) -> None:
        process.frozen = not process.frozen

    @step(exposed_hosts, "cut")
    def cut_or_heal(self, index: int) -> None:
        host = self.world.machines[index]
        host.is_cut = not host.is_cut

    @step(exposed_hosts, "kill_host")
    def kill_host(self, index: int) -> None:
        self.world.kill_host(index)

    @step(lambda self: [] if self.spared else [2, 20], "outage")
    def outage(self, seconds: int) -> None:
        """Redis is away, and comes back with all its data."""
        self.world.outage(seconds)


def machine(
    design: Design = OURS,
    *,
    stock: Design | None = None,
    watched: Collection[str] = KINDS,
    faults: Collection[str] = (),
) -> type[Machine]:
    """Return a machine whose workers have a design. With ``stock``, the last worker has that one and meets no fault.

    ``faults`` are those of each run, instead of some drawn at random.
    """
    designs = (design, design, stock or design)
    members = {
        "designs": designs,
        "watched": frozenset(watched),
        "chosen": frozenset(faults),
        "spared": (len(designs) - 1,) if stock else (),
        "seen": Counter(),
    }
    return type("Machine", (Machine,), members)
