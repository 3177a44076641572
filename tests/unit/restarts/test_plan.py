from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from types import ModuleType
from typing import Any

import pytest
import yaml

from .conftest import APPLICATION

HUNDREDS = 50


@pytest.fixture
def sends(load_plan: ModuleType) -> list[Any]:
    return list(islice(load_plan.plan(7), 100 * HUNDREDS))


def test_the_same_seed_gives_the_same_load(load_plan: ModuleType, sends: list[Any]) -> None:
    assert list(islice(load_plan.plan(7), 300)) == sends[:300]
    assert list(islice(load_plan.plan(8), 300)) != sends[:300]


def test_fifty_tasks_are_sent_a_second(sends: list[Any]) -> None:
    assert [send.at for send in sends[:3]] == [0.0, 0.02, 0.04]
    assert sends[-1].at == pytest.approx(len(sends) / 50, abs=0.03)


def test_a_lighter_load_is_the_same_load_sent_more_slowly(
    load_plan: ModuleType, sends: list[Any]
) -> None:
    light = list(islice(load_plan.plan(7, rate=10.0), 300))
    assert [send.at for send in light[:3]] == [0.0, 0.1, 0.2]
    assert [(send.kind, send.queue, send.seconds) for send in light] == [
        (send.kind, send.queue, send.seconds) for send in sends[:300]
    ]


def test_shorter_etas_change_nothing_else(load_plan: ModuleType, sends: list[Any]) -> None:
    early = list(islice(load_plan.plan(7, eta=6.0), 300))
    assert max(send.delay for send in early) <= 6.0
    assert [(send.at, send.kind, send.queue, send.seconds) for send in early] == [
        (send.at, send.kind, send.queue, send.seconds) for send in sends[:300]
    ]


def test_each_hundred_tasks_have_the_same_mix(sends: list[Any]) -> None:
    for begin in range(0, len(sends), 100):
        seconds = [send.seconds for send in sends[begin : begin + 100]]
        assert sum(value == 20 for value in seconds) == 1
        assert sum(1 <= value <= 5 for value in seconds) == 4
        assert sum(0.01 <= value <= 0.1 for value in seconds) == 95


def test_long_tasks_are_spread_by_the_queues_shares(
    load_plan: ModuleType, sends: list[Any]
) -> None:
    total = sum(load_plan.SHARES.values())
    for long in (True, False):
        found = Counter(send.queue for send in sends if (send.seconds >= 1) == long)
        for queue, share in load_plan.SHARES.items():
            assert found[queue] == pytest.approx(found.total() * share / total, abs=2)


def test_shares_are_those_of_the_inventory(load_plan: ModuleType) -> None:
    variables = yaml.safe_load(
        (APPLICATION.parent / "inventory/group_vars/all/celery.yml").read_text()
    )
    workers = variables["celery_worker_instances"]
    assert {name: options["concurrency"] for name, options in workers.items()} == load_plan.SHARES
    assert load_plan.ETA[1] < variables["celery_app_visibility_timeout"]


def test_some_retry_some_wait_and_some_are_chords(load_plan: ModuleType, sends: list[Any]) -> None:
    kinds = Counter(send.kind for send in sends)
    assert kinds["eta"] == kinds["stumble"] == HUNDREDS
    assert kinds["chord"] == HUNDREDS / load_plan.CHORD_EVERY
    assert all((send.delay > 0) == (send.kind == "eta") for send in sends)


def test_all_tasks_have_different_numbers(load_plan: ModuleType, sends: list[Any]) -> None:
    numbers = [send.number for send in sends]
    gaps = [after - before for before, after in pairwise(numbers)]
    chord = load_plan.CHORD_HEADERS + 1
    assert all(
        gap == (chord if send.kind == "chord" else 1)
        for send, gap in zip(sends, gaps, strict=False)
    )


def test_tasks_longer_than_a_drain_come_first(load_plan: ModuleType) -> None:
    first, second, third = islice(load_plan.plan(7, [75.0, 80.0]), 3)
    assert (first.seconds, second.seconds) == (75.0, 80.0)
    assert (first.number, second.number, third.number) == (0, 1, 2)
    assert third.seconds <= 20


def test_a_rich_load_is_the_same_load_and_more(load_plan: ModuleType, sends: list[Any]) -> None:
    rich = list(islice(load_plan.plan(7, rich=True), len(sends)))

    def shape(send: Any) -> tuple[Any, ...]:
        return send.at, send.queue, send.seconds

    assert [shape(send) for send in rich] == [shape(send) for send in sends]
    kinds = {"nap", "limited", "revoked"}
    assert all(
        one.kind == other.kind or (one.kind in kinds and other.kind == "nap")
        for one, other in zip(rich, sends, strict=True)
    )
    assert {send.size for send in sends} == {send.priority for send in sends} == {0}
    assert {send.priority for send in rich} == set(load_plan.PRIORITIES)
    for begin in range(0, len(rich), 100):
        block = rich[begin : begin + 100]
        found = Counter(send.kind for send in block)
        assert (found["limited"], found["revoked"]) == (load_plan.LIMITED, 1)
        assert Counter(send.size for send in block) == {load_plan.SMALL: 99, load_plan.LARGE: 1}
    assert all(send.delay == load_plan.REVOKED_IN for send in rich if send.kind == "revoked")


def test_the_task_after_a_revoked_one_revokes_it(load_plan: ModuleType) -> None:
    rich = list(islice(load_plan.plan(7, rich=True), 300))
    after = {one.number: other.number for one, other in pairwise(rich)}
    revoked = [send.number for send in rich if send.kind == "revoked"]
    assert revoked
    assert all(after[number] == number + 2 for number in revoked)


# --- other kinds of workers -------------------------------------------------------------------------


@pytest.fixture
def by_worker(load_plan: ModuleType) -> list[Any]:
    return list(islice(load_plan.by_worker(7, list(load_plan.WORKERS)), 2400))


def test_each_kind_of_worker_has_its_share(load_plan: ModuleType, by_worker: list[Any]) -> None:
    found = Counter(send.queue for send in by_worker)
    total = sum(load_plan.WORKERS.values())
    assert found == {name: 2400 * share / total for name, share in load_plan.WORKERS.items()}
    warm = list(islice(load_plan.by_worker(7, ["warm"]), 30))
    assert {send.queue for send in warm} == {"warm"}


def test_each_kind_of_worker_publishes_at_the_end_of_some_tasks(by_worker: list[Any]) -> None:
    kinds: dict[str, Counter[str]] = {}
    for send in by_worker:
        kinds.setdefault(send.queue, Counter())[send.kind] += 1
    assert set(kinds.pop("once")) == {"nap"}
    assert set(kinds.pop("exchanges")) == {"relay"}
    for found in kinds.values():
        assert found["stumble"] == found["chain"] == found["chord"] == found.total() / 10


def test_all_tasks_of_a_load_by_worker_have_different_numbers(
    load_plan: ModuleType, by_worker: list[Any]
) -> None:
    sizes = {"chord": load_plan.CHORD_HEADERS + 1, "chain": load_plan.CHAIN_LINKS, "relay": 2}
    assert all(
        after.number - before.number == sizes.get(before.kind, 1)
        for before, after in pairwise(by_worker)
    )


def test_workers_are_those_of_the_inventory(load_plan: ModuleType) -> None:
    scenario = APPLICATION.parents[1] / "delivery/workers/group_vars/all/celery.yml"
    variables = yaml.safe_load(scenario.read_text())
    assert set(variables["celery_worker_instances"]) == set(load_plan.WORKERS)
    # A drain waits for the longest task.
    assert max(load_plan.NAPS.values()) < variables["celery_worker_defaults"]["drain_timeout"]
