"""The order of a rolling restart: which worker may restart when; no order of events breaks the rules or deadlocks."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.canary_choice import (
    canary,
    candidates,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.forecast import (
    Round,
    describe,
    simulate,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    KINDS,
    FleetWorker,
    Policy,
    RollError,
    RollSnapshot,
    Turn,
    consumers,
    deferred,
    next_turn,
    ready,
    waiting,
)


def worker(node: str, *queues: str, **attributes: Any) -> FleetWorker:
    name, host = node.split("@")
    attributes = {"processes": 4, **attributes}
    return FleetWorker(
        node, host, f"app-worker@{name}.service", name, queues or (name,), **attributes
    )


def restarting(node: str, *queues: str, **attributes: Any) -> FleetWorker:
    return worker(node, *queues, need="restart", **attributes)


def nodes(steps: list[Round]) -> list[list[str]]:
    return [[turn.node for turn in step.turns] for step in steps]


def over(*names: str, overlapped: bool = False) -> dict[str, Turn]:
    """Return restarts that have ended."""
    return {node: Turn(node, node.split("@")[1], "restart", overlapped) for node in names}


FOUR = [restarting(f"a@h{n}", "q") for n in range(4)]


# -- rules -------------------------------------------------------------------------------------------------


def test_the_first_restart_is_alone_and_half_of_the_queue_stays() -> None:
    assert nodes(simulate(FOUR, Policy())) == [["a@h0"], ["a@h1", "a@h2"], ["a@h3"]]


@pytest.mark.parametrize(
    ("percent", "batch", "rounds"),
    [(1, 4, [1, 3]), (25, 4, [1, 3]), (26, 4, [1, 2, 1]), (50, 1, [1] * 4), (75, 9, [1] * 4)],
)
def test_rounds_follow_the_policy(percent: int, batch: int, rounds: list[int]) -> None:
    steps = simulate(FOUR, Policy(percent, batch))
    assert [len(step.turns) for step in steps] == rounds
    assert not any(turn.gap or turn.overlapped for step in steps for turn in step.turns)


def test_the_canary_goes_first_beside_the_old_release() -> None:
    rounds = simulate(FOUR, Policy(canary="a@h2"))
    assert rounds[0].turns == (Turn("a@h2", "h2", "restart", overlapped=True, observed=True),)
    assert not any(turn.observed for step in rounds[1:] for turn in step.turns)
    assert "a@h2 is the canary: the others wait while it is observed" in describe(
        FOUR, Policy(canary="a@h2")
    )
    # It can't be overlapped with one process, so it is observed after its restart.
    one = [replace(each, processes=1) for each in FOUR]
    assert simulate(one, Policy(canary="a@h2"))[0].turns[0] == Turn(
        "a@h2", "h2", "restart", observed=True
    )


def test_a_plan_says_which_workers_may_be_the_canary_and_for_how_long() -> None:
    said = describe(FOUR, Policy(canary="a@h0"), 60, ["a@h0", "a@h1"])
    assert "starting with just the canary; " in said[0]
    assert said[1] == (
        "the one of a@h0, a@h1 that has run most tasks in the last hour is the canary: "
        "the others wait while it is observed for 60 s"
    )
    assert not any("overlapped" in line for line in said)
    said = describe(FOUR, Policy(canary="a@h0"), 60, ["a@h0"])
    assert "starting with just a@h0; " in said[0]
    assert said[1] == "a@h0 is the canary: the others wait while it is observed for 60 s"
    assert said[2].startswith("a@h0 is overlapped")
    many = [f"a@h{number}" for number in range(9)]
    assert (
        "the one of a@h0, a@h1, a@h2, a@h3 and 5 more that"
        in describe(FOUR, Policy(canary="a@h0"), 60, many)[1]
    )


def test_without_the_canary_s_host_another_pilot_is_observed() -> None:
    state = RollSnapshot(tuple(FOUR), Policy(canary="a@h2"), joined=frozenset({"h1"}))
    assert ready(state, "restart") == [
        Turn("a@h1", "h1", "restart", overlapped=True, observed=True)
    ]


def test_the_busiest_worker_that_can_be_overlapped_is_the_canary() -> None:
    workers = [
        restarting("a@h1", busy=5),
        restarting("b@h1", busy=50, processes=1),
        restarting("c@h1", busy=9),
        worker("d@h1", busy=99),
    ]
    assert canary(workers) == "c@h1"
    assert [one.node for one in candidates(workers)] == ["a@h1", "c@h1"]
    assert [one.node for one in candidates([restarting("b@h1", processes=1)])] == ["b@h1"]
    assert canary(workers, "b") == "b@h1"
    assert canary(workers, "a@h1") == "a@h1"
    assert canary([worker("d@h1")]) is None
    assert canary([worker("d@h1")], "b") is None
    # The named one has restarted already.
    assert canary(workers, "d") == "c@h1"
    with pytest.raises(RollError, match="celery_canary_worker is e, and there is no worker of"):
        canary(workers, "e")


def test_the_canary_is_on_a_host_that_ansible_begins_with() -> None:
    workers = [restarting(f"a@h{number}", busy=number) for number in range(4)]
    workers.insert(0, worker("a@h9", need="start", presence="inactive"))
    assert canary(workers, forks=4) == "a@h3"
    assert canary(workers, forks=2) == "a@h1"
    assert canary(workers, "a", forks=2) == "a@h1"
    with pytest.raises(RollError, match=r"Ansible begins with 2 other hosts; .* --forks=4"):
        canary(workers, "a@h3", forks=2)


def test_with_all_capacity_every_worker_is_overlapped() -> None:
    steps = simulate(FOUR, Policy(min_capacity=100))
    assert all(turn.overlapped for step in steps for turn in step.turns)


def test_a_new_fleet_starts_at_once() -> None:
    fresh = [worker(f"a@h{n}", need="start", presence="inactive") for n in range(20)]
    steps = simulate(fresh, Policy(batch=1))
    assert [(step.kind, len(step.turns)) for step in steps] == [("start", 20)]


def test_a_worker_that_does_not_consume_is_started_instead_of_restarted() -> None:
    hung = restarting("a@h1", "q", presence="inactive")
    assert [step.kind for step in simulate([hung], Policy())] == ["start"]


def test_starts_then_restarts_then_removals() -> None:
    fleet = [
        worker("old@h1", "q", need="remove"),
        restarting("a@h1", "q"),
        restarting("a@h2", "q"),
        worker("new@h2", "q", need="start", presence="inactive"),
    ]
    steps = simulate(fleet, Policy())
    assert [step.kind for step in steps] == ["start", "restart", "restart", "remove"]


def test_turns_are_spread_over_the_hosts() -> None:
    names = [f"{letter}@h{n}" for n in range(3) for letter in "abcd"]
    fleet = [restarting(node, "q", processes=1) for node in names]
    _, second, *_ = simulate(fleet, Policy(batch=3))
    assert len({turn.host for turn in second.turns}) == 3


def test_the_first_worker_is_the_one_with_the_least_impact() -> None:
    alone = restarting("only@h1", processes=1)
    assert nodes(simulate([alone, *FOUR], Policy()))[0] == ["a@h0"]
    overlapped = restarting("big@h1", processes=8)
    assert nodes(simulate([alone, overlapped, *FOUR], Policy()))[0] == ["a@h0"]
    assert nodes(simulate([alone, overlapped], Policy()))[0] == ["big@h1"]


@pytest.mark.parametrize(
    ("attributes", "overlapped"),
    [
        ({"processes": 2}, True),
        ({"processes": 1}, False),
        ({"processes": 1, "overlap": True}, True),
        ({"processes": 2, "overlap": False}, False),
        ({"processes": 2, "pool": "threads"}, False),
        ({"processes": 2, "pool": "gevent", "overlap": True}, True),
        ({"processes": 2, "pool": "solo", "overlap": True}, False),
    ],
)
def test_the_only_worker_of_a_queue_is_overlapped_if_possible(
    attributes: dict[str, Any], overlapped: bool
) -> None:
    ((turn,),) = (step.turns for step in simulate([restarting("a@h1", **attributes)], Policy()))
    assert turn.overlapped is overlapped
    assert turn.gap == (() if overlapped else ("a",))


def test_too_large_a_part_of_a_queue_is_overlapped_and_the_rest_is_not() -> None:
    fleet = [restarting("big@h1", "q", processes=6), restarting("small@h2", "q", processes=2)]
    turns = {turn.node: turn for step in simulate(fleet, Policy()) for turn in step.turns}
    assert turns["big@h1"].overlapped
    assert not turns["small@h2"].overlapped


def test_overlap_true_does_not_overlap_workers_that_need_none() -> None:
    fleet = [replace(one, overlap=True) for one in FOUR]
    assert not any(turn.overlapped for step in simulate(fleet, Policy()) for turn in step.turns)


def test_a_gap_waits_for_the_other_workers_of_its_queues() -> None:
    fleet = [
        restarting("a@h1", "q", "r", processes=1),
        restarting("b@h2", "q", processes=1),
        restarting("c@h3", "q", processes=1),
    ]
    state = RollSnapshot(tuple(fleet), joined=frozenset({"h1", "h2", "h3"}), proved=True)
    b = next_turn(state, "h2", "restart")
    assert b == Turn("b@h2", "h2", "restart")
    state = replace(state, active={"b@h2": b})
    assert next_turn(state, "h1", "restart") is None
    state = replace(state, active={}, ended=over("b@h2", "c@h3"))
    assert next_turn(state, "h1", "restart") == Turn("a@h1", "h1", "restart", gap=("r",))


def test_no_other_worker_of_a_queue_restarts_during_its_gap() -> None:
    fleet = [
        restarting("big@h1", "q", processes=3, overlap=False),
        restarting("b@h2", "q", processes=1),
    ]
    state = RollSnapshot(tuple(fleet), joined=frozenset({"h1", "h2"}), proved=True)
    state = replace(state, active={"big@h1": Turn("big@h1", "h1", "restart", gap=("q",))})
    assert ready(state, "restart") == []


# -- hosts that are down, hosts that have not joined, failures --------------------------------------------


def test_unreachable_workers_count_as_missing() -> None:
    fleet = [*FOUR[:2], worker("a@h2", "q", presence="missing")]
    # Eight of twelve processes run and six have to: neither worker may restart without a second instance.
    assert all(turn.overlapped for step in simulate(fleet, Policy()) for turn in step.turns)
    assert nodes(simulate(fleet, Policy(min_capacity=33))) == [["a@h0"], ["a@h1"]]


def test_active_workers_outside_the_play_count_as_capacity() -> None:
    fleet = [*FOUR[:2], worker("a@h2", "q")]
    assert not any(turn.overlapped for step in simulate(fleet, Policy()) for turn in step.turns)


def test_no_host_waits_for_one_that_has_not_joined() -> None:
    state = RollSnapshot(tuple(FOUR), joined=frozenset({"h3"}))
    assert next_turn(state, "h3", "restart") == Turn("a@h3", "h3", "restart")
    assert next_turn(state, "h0", "restart") is None


def test_after_a_failure_nothing_begins() -> None:
    fresh = worker("b@h1", need="start", presence="inactive")
    state = RollSnapshot((*FOUR, fresh), joined=frozenset({"h0", "h1"}), proved=True, failed=True)
    assert [ready(state, kind) for kind in KINDS] == [[], [], []]


def test_nothing_begins_while_the_first_restart_is_under_way() -> None:
    pilot = Turn("a@h0", "h0", "restart")
    state = RollSnapshot(tuple(FOUR), joined=frozenset({"h0", "h1"}), active={"a@h0": pilot})
    assert ready(state, "restart") == []


def test_a_first_worker_that_needed_no_restart_does_not_count() -> None:
    state = RollSnapshot(tuple(FOUR), joined=frozenset({"h1", "h2"}), ended=over("a@h0"))
    assert len(ready(state, "restart")) == 1


# -- removals ----------------------------------------------------------------------------------------------


def test_a_worker_that_moved_stays_while_its_new_host_is_down() -> None:
    fleet = [worker("a@h1", need="remove"), worker("a@h2", presence="missing")]
    assert simulate(fleet, Policy()) == []
    assert deferred(fleet, Policy()) == {"a@h1": ("a",)}
    assert "a@h1 stays for now" in describe(fleet, Policy())[0]


def test_an_unwanted_queue_does_not_keep_a_worker() -> None:
    assert nodes(simulate([worker("a@h1", need="remove")], Policy())) == [["a@h1"]]


def test_leftovers_of_a_killed_run_do_not_count_as_consumers() -> None:
    fleet = [worker("a.next@h1", "a", need="remove"), restarting("a@h1")]
    restart, remove = simulate(fleet, Policy())
    assert restart.turns[0].overlapped
    assert remove.turns[0].node == "a.next@h1"


def test_a_stopped_worker_can_always_be_removed() -> None:
    fleet = [
        worker("a@h1", need="remove", presence="inactive"),
        worker("a@h2", presence="missing"),
    ]
    assert nodes(simulate(fleet, Policy())) == [["a@h1"]]


# -- the description ------------------------------------------------------------------------------------------


def test_the_description_of_a_roll() -> None:
    fleet = [
        *FOUR,
        restarting("big@h1"),
        restarting("one@h1", processes=1),
        restarting("io@h2", pool="threads"),
    ]
    assert describe(fleet, Policy(batch=2)) == [
        (
            "7 workers restart in 4 rounds, at most 2 at a time, starting with just a@h0; each queue keeps 50 % "
            "of its processes"
        ),
        "big@h1 is overlapped: a second instance serves while it restarts",
        (
            "no worker consumes queue one while one@h1 restarts (one process: set overlap: true if two of its tasks "
            "may run side by side)"
        ),
        "no worker consumes queue io while io@h2 restarts (its pool is threads: set overlap: true)",
    ]


def test_a_partial_gap_is_described_with_numbers() -> None:
    fleet = [
        restarting("big@h1", "q", processes=3, overlap=False),
        worker("b@h2", "q", processes=1),
    ]
    assert describe(fleet, Policy()) == [
        "1 worker restarts; each queue keeps 50 % of its processes",
        "queue q has 1 of 4 processes while big@h1 restarts (overlap: false)",
    ]


def test_without_restarts_there_is_no_description() -> None:
    assert describe([worker("a@h1"), worker("b@h1", need="remove")], Policy()) == []


# -- impossible input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_a_capacity_that_is_no_percentage_is_refused(percent: int) -> None:
    with pytest.raises(RollError, match="from 1 to 100"):
        Policy(min_capacity=percent)


def test_a_batch_of_zero_is_refused() -> None:
    with pytest.raises(RollError, match="1 or more"):
        Policy(batch=0)


@pytest.mark.parametrize(
    ("fleet", "words"),
    [
        ([worker("a@h1"), worker("a@h1")], "twice"),
        ([replace(worker("a@h1"), queues=())], "no queue"),
        ([worker("a@h1", processes=0)], "0 processes"),
        ([restarting("a@h1", presence="missing")], "out of reach"),
    ],
)
def test_an_impossible_fleet_is_refused(fleet: list[FleetWorker], words: str) -> None:
    with pytest.raises(RollError, match=words):
        simulate(fleet, Policy())


# -- any order of events --------------------------------------------------------------------------------------


def some_fleet(chance: random.Random) -> list[FleetWorker]:
    """Return random workers on some hosts, a few of which are down."""
    fleet = []
    queues = ["q", "r", "s", "t"][: chance.randint(1, 4)]
    for host in range(chance.randint(1, 5)):
        down = chance.random() < 0.15
        for name in range(chance.randint(0, 4)):
            presence = "missing" if down else chance.choice(["serving"] * 5 + ["inactive"])
            need = "" if down else chance.choice(["restart"] * 5 + ["", "start", "remove"])
            fleet.append(
                worker(
                    f"w{name}@h{host}",
                    *chance.choices(queues, k=chance.randint(1, len(queues))),
                    processes=chance.choice([1, 1, 2, 4, 8]),
                    pool=chance.choice(["prefork"] * 3 + ["threads"]),
                    overlap=chance.choice([None, None, True, False]),
                    presence="inactive" if need == "start" else presence,
                    need=need,
                )
            )
    return fleet


def consuming(
    fleet: list[FleetWorker], active: dict[str, Turn], ended: dict[str, Turn]
) -> Counter[str]:
    """Count as the module does, but from what each worker does in its turn."""
    found: Counter[str] = Counter()
    for one in fleet:
        if one.node in active:
            serves = active[one.node].overlapped
        elif one.node in ended:
            serves = one.need != "remove"
        else:
            serves = one.presence == "serving"
        for queue in set(one.queues):
            found[queue] += one.processes * serves
    return found


@pytest.mark.parametrize("block", range(12))
def test_no_order_of_events_breaks_a_rule_or_ends_in_a_deadlock(block: int) -> None:
    for seed in range(50):
        one_roll(random.Random(1000 * block + seed))  # noqa: S311 - seeded: a failure can be seen again


def one_roll(chance: random.Random) -> None:
    """Simulate a roll with a random fleet, any number of forks, and turns that begin and end in any order."""
    fleet = some_fleet(chance)
    policy = Policy(chance.choice([1, 30, 50, 75, 100]), chance.randint(1, 5))
    hosts = sorted({one.host for one in fleet})
    forks = chance.randint(1, max(1, len(hosts)))
    total: Counter[str] = Counter()
    reach: Counter[str] = Counter()
    for one in fleet:
        for queue in set(one.queues):
            total[queue] += one.processes * (one.need != "remove")
            alive = one.presence == "serving" or one.need != ""
            reach[queue] += one.processes * (one.need != "remove" and alive)
    stay = deferred(fleet, policy)
    ended: dict[str, Turn] = {}
    proved = False
    for kind in KINDS:
        queued = list(hosts)  # Ansible assigns its forks to hosts in their order
        joined: set[str] = set()
        active: dict[str, Turn] = {}
        while True:
            state = RollSnapshot(
                tuple(fleet), policy, frozenset(joined), dict(active), dict(ended), proved
            )
            mine = {one.host for one in waiting(state, kind)} | {
                turn.host for turn in active.values()
            }
            joined &= mine
            while queued and len(joined) < forks:
                host = queued.pop(0)
                if host in mine:
                    joined.add(host)
            state = replace(state, joined=frozenset(joined))
            if not joined:
                break
            turns = [
                turn
                for host in chance.sample(sorted(joined), len(joined))
                if (turn := next_turn(state, host, kind))
            ]
            assert turns or active, f"no worker may begin, but {sorted(mine)} wait to {kind}"
            if turns and chance.random() < 0.7:
                turn = chance.choice(turns)
                if turn.gap:
                    others = (one.queues for one in fleet if one.node in active)
                    own = next(one.queues for one in fleet if one.node == turn.node)
                    assert not {queue for queues in others for queue in queues} & set(own)
                active[turn.node] = turn
            elif active:
                over = active.pop(chance.choice(sorted(active)))
                ended[over.node] = over
                proved = proved or over.kind == "restart"
            for turn in active.values():
                assert kind == turn.kind
            if kind == "start":
                continue
            assert len(active) <= policy.batch
            if kind == "restart" and not proved:
                assert len(active) <= 1
            serving = consuming(fleet, active, ended)
            by_node = {one.node: one for one in fleet}
            gaps = {q for t in active.values() if t.gap for q in by_node[t.node].queues}
            for queue, processes in total.items():
                least = max(1, ceil(processes * policy.min_capacity / 100)) if processes else 0
                if queue not in gaps:
                    assert serving[queue] >= min(least, reach[queue]), (queue, active)
            for turn in active.values():
                own = set(by_node[turn.node].queues)
                if turn.gap:
                    # Exceptions are only for workers that could never restart otherwise, one at a time for each queue.
                    short = [
                        q
                        for q in own
                        if reach[q] - by_node[turn.node].processes
                        < max(1, ceil(total[q] * policy.min_capacity / 100))
                    ]
                    assert set(turn.gap) == set(short)
                    assert not by_node[turn.node].can_overlap
    assert set(ended) == {one.node for one in fleet if one.kind} - set(stay)


def test_the_plan_foretells_every_turn_once() -> None:
    chance = random.Random(0)  # noqa: S311 - seeded
    for _ in range(200):
        fleet = some_fleet(chance)
        steps = simulate(fleet, Policy())
        told = [turn.node for step in steps for turn in step.turns]
        expected = {one.node for one in fleet if one.kind} - set(deferred(fleet, Policy()))
        assert Counter(told) == Counter(expected)
        order = [KINDS.index(step.kind) for step in steps]
        assert order == sorted(order)


@pytest.mark.parametrize("turns", ["active", "ended"])
def test_a_second_instance_that_a_turn_uses_does_not_count_as_capacity(turns: str) -> None:
    fleet = (
        restarting("a@h1", "q"),
        worker("a.next@h1", "q", need="remove"),
        restarting("b@h2", "q"),
    )
    for overlapped, left in ((False, ["a.next@h1"]), (True, [])):
        state = replace(RollSnapshot(fleet), **{turns: over("a@h1", overlapped=overlapped)})
        found = consumers(state, ["q"])["q"]
        assert [node for node in found if ".next" in node] == left
        assert "b@h2" in found
