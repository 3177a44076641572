from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_fleet.delivery.lease import sweep as lease_sweep
from celery_fleet.delivery.lease import sweep_scripts
from celery_fleet.delivery.lease.sweep import Broker, Sweep, UnackedEntry, holders, in_order
from celery_fleet.delivery.messages import Owner
from celery_fleet.delivery.scripts import PUT_BACK, Script
from celery_fleet.delivery.tags import Tags
from tests.fleet import client
from tests.unit.delivery.holding import INDEX, SEP, UNACKED, Store, message

LEASE, STOCK = 300.0, 3600.0
OWN = Owner("here@test")
GONE = Owner("gone@test")


@pytest.fixture
def known() -> set[str]:
    return set()


def sweeping(owner: Owner, known: Callable[[], set[str]], stock: float = STOCK) -> Sweep:
    """Return a sweep that began long ago."""
    made = Sweep(owner, known, LEASE, stock)
    made.redis_clock.set_at = float("-inf")
    return made


@pytest.fixture
def sweep(known: set[str]) -> Sweep:
    return sweeping(OWN, lambda: known)


def tags_of(owner: Owner, number: int) -> list[str]:
    made = Tags(owner)
    return [made.next() for _ in range(number)]


def test_messages_without_a_valid_lease_go_back_and_others_stay(store: Store, sweep: Sweep) -> None:
    old, young = tags_of(GONE, 2)
    store.hold(old, LEASE + 1)
    store.hold(young, LEASE - 60)

    assert not sweep.round(store.broker())
    assert store.names() == [old]
    assert store.held() == {young}
    assert not store.redis.hexists(UNACKED, old)


def test_a_message_goes_back_with_kombus_marks(store: Store, sweep: Sweep) -> None:
    (tag,) = tags_of(GONE, 1)
    sent = json.loads(store.hold(tag, LEASE + 1, priority=6))
    sweep.round(store.broker())

    (item,) = client(store.port, "operator").lrange(f"mail{SEP}6", 0, -1)
    sent["headers"]["redelivered"] = True
    sent["properties"]["delivery_info"]["redelivered"] = True
    assert json.loads(item) == sent


def test_messages_go_to_the_head_in_the_order_of_fetching(store: Store, sweep: Sweep) -> None:
    tags = tags_of(GONE, 12)
    for tag in reversed(tags):  # a renewal has given all entries the same time
        store.hold_entry(tag, f'[{message(tag)}, "", "mail"]')
    store.redis.zadd(INDEX, dict.fromkeys(tags, store.now - LEASE - 1))
    store.redis.lpush("mail", message("waited before"))

    sweep.round(store.broker())
    assert store.names() == [*tags, "waited before"]


def test_several_batches_keep_their_order(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_sweep, "BATCH", 4)
    tags = tags_of(GONE, 10)
    for number, tag in enumerate(tags):
        store.hold(tag, LEASE + 100 - number)

    sweep.round(store.broker())
    assert store.names() == tags


def test_a_round_is_limited_and_reports_that_more_is_left(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_sweep, "BATCH", 2)
    monkeypatch.setattr(lease_sweep, "BATCHES", 2)
    for number, tag in enumerate(tags_of(GONE, 5)):
        store.hold(tag, LEASE + 100 - number)

    assert sweep.round(store.broker())
    assert len(store.names()) == 4
    assert not sweep.round(store.broker())
    assert len(store.names()) == 5


def test_large_messages_come_in_smaller_batches(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_sweep, "BATCH_BYTES", 1000)
    tags = tags_of(GONE, 3)
    for number, tag in enumerate(tags):
        store.hold(tag, LEASE + 100 - number, body="x" * 2000)

    sweep.round(store.broker())
    assert store.names() == tags
    assert store.calls.count(PUT_BACK) == 3


def test_a_larger_message_has_more_time(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_sweep, "BATCH_BYTES", 1000)
    monkeypatch.setattr(lease_sweep, "SLOWEST", 100)
    for number, (tag, size) in enumerate(zip(tags_of(GONE, 3), (100, 2000, 20_000), strict=True)):
        store.hold(tag, LEASE + 100 - number, body="x" * size)
    times: list[float | None] = []

    def run_each(script: Script, calls: Iterable[Any], seconds: float | None) -> list[Any]:
        times.append(seconds)
        return store.run_each(script, calls)

    sweep.round(store.broker(run_each=run_each))
    # Twice the longest time is a third of the lease, so this worker can renew its own messages.
    longest, large, small = times
    assert (longest, small) == (LEASE / 6, None)
    assert large is not None
    assert 20 < large < 30


def test_a_large_message_that_redis_does_not_get_in_time_blocks_no_other(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease_sweep, "BATCH_BYTES", 1000)
    older, large = tags_of(GONE, 2)
    store.hold(older, LEASE + 2)
    store.hold(large, LEASE + 1, body="x" * 2000)

    def run_each(script: Script, calls: Iterable[Any], *seconds: float | None) -> list[Any]:
        given = list(calls)
        if any(len(arguments[1]) > 1000 for _, arguments in given):
            raise RedisTimeoutError
        return store.run_each(script, given)

    for _ in range(2):
        sweep.round(store.broker(run_each=run_each))
    assert store.names() == [older]
    assert store.held() == {large}
    assert store.age(large) < LEASE, "it is tried again after a lease, not in each round"
    assert "could not be put back within 0 s and are tried again later: 1 of gone" in caplog.text


def test_a_redis_that_does_not_answer_gets_the_messages_again_in_the_next_round(
    store: Store, sweep: Sweep
) -> None:
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, LEASE + 1)

    def run_each(*_: object) -> list[Any]:
        raise RedisTimeoutError

    with pytest.raises(RedisTimeoutError):
        sweep.round(store.broker(run_each=run_each))
    sweep.round(store.broker())
    assert store.names() == [tag]


def test_a_round_ends_when_a_renewal_is_due(
    store: Store, known: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_sweep, "BATCH", 1)
    now = 0.0
    sweep = Sweep(OWN, lambda: known, LEASE, STOCK, clock=lambda: now)
    sweep.redis_clock.set_at = float("-inf")
    for number, tag in enumerate(tags_of(GONE, 4)):
        store.hold(tag, LEASE + 100 - number)

    def run_each(script: Script, calls: Iterable[Any], *_: float | None) -> list[Any]:
        nonlocal now
        now += 3
        return store.run_each(script, calls)

    assert sweep.round(store.broker(run_each=run_each))
    assert len(store.names()) == 2


def test_a_running_message_stays_even_if_its_lease_is_over(
    store: Store, sweep: Sweep, known: set[str]
) -> None:
    (tag,) = tags_of(OWN, 1)
    store.hold(tag, LEASE + 500)
    known.add(tag)

    assert not sweep.round(store.broker(), suspicious=True)
    assert not sweep.round(store.broker(), suspicious=True)
    assert store.names() == []
    assert store.held() == {tag}


def test_a_message_that_was_renewed_meanwhile_stays(store: Store, sweep: Sweep) -> None:
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, LEASE + 1)

    def lists(*_: object) -> list[str]:
        store.redis.zadd(INDEX, {tag: store.now})
        return ["mail"]

    sweep.round(store.broker(lists=lists))
    assert store.names() == []
    assert store.held() == {tag}


def test_only_one_of_two_sweeps_puts_a_message_back(
    store: Store, sweep: Sweep, known: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, LEASE + 1)
    other = sweeping(Owner("other@test"), lambda: known)

    def lists(*_: object) -> list[str]:
        other.round(store.broker())
        return ["mail"]

    sweep.round(store.broker(lists=lists))
    assert store.names() == [tag]
    assert caplog.text.count("put back 1 messages") == 1


def test_a_stock_workers_message_has_its_own_timeout(store: Store, sweep: Sweep) -> None:
    running, abandoned = "0b1e-running", "0b1e-abandoned"
    store.hold(running, LEASE + 500)
    store.hold(abandoned, STOCK + 1)

    sweep.round(store.broker())
    assert store.names() == [abandoned]
    assert store.held() == {running}


def test_many_messages_of_stock_workers_do_not_hide_ours(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_sweep, "BATCH", 2)
    for number in range(20):
        store.hold(f"stock-{number}", LEASE + 1 + number)
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, LEASE + 500)

    sweep.round(store.broker())
    assert store.names() == [tag]


def test_stock_messages_may_have_the_same_timeout(store: Store, known: set[str]) -> None:
    sweep = sweeping(OWN, lambda: known, 15.0)
    store.hold("stock", LEASE + 1)
    store.hold("stock, young", LEASE - 60)
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, LEASE + 2)

    sweep.round(store.broker())
    assert store.names() == [tag, "stock"]


def test_an_own_unknown_message_goes_back_after_it_was_found_twice(
    store: Store, sweep: Sweep, known: set[str]
) -> None:
    forgotten, fresh, ours = tags_of(OWN, 3)
    (another,) = tags_of(Owner(OWN.node), 1)  # an earlier start of the same node
    for tag, age in ((forgotten, 20), (fresh, 1), (ours, 20), (another, 20)):
        store.hold(tag, age)
    known.add(ours)

    sweep.round(store.broker(), suspicious=True)
    assert store.names() == []
    sweep.round(store.broker(), suspicious=True)
    assert store.names() == [forgotten]
    assert store.held() == {fresh, ours, another}


def test_without_suspicion_only_messages_that_missed_a_renewal_go_back(
    store: Store, sweep: Sweep
) -> None:
    forgotten, fresh = tags_of(OWN, 2)
    store.hold(forgotten, LEASE / 3 + 20)
    store.hold(fresh, 20)
    for _ in range(2):
        sweep.round(store.broker())
    assert store.names() == [forgotten]
    assert store.held() == {fresh}


def test_a_message_whose_reply_came_between_two_sweeps_does_not_go_back(
    store: Store, sweep: Sweep, known: set[str]
) -> None:
    (tag,) = tags_of(OWN, 1)
    store.hold(tag, 20)
    sweep.round(store.broker(), suspicious=True)
    known.add(tag)
    sweep.round(store.broker(), suspicious=True)
    known.clear()
    sweep.round(store.broker(), suspicious=True)
    assert store.names() == []


def test_an_index_entry_without_a_message_is_removed(store: Store, sweep: Sweep) -> None:
    gone, own = tags_of(GONE, 1)[0], tags_of(OWN, 1)[0]
    store.redis.zadd(INDEX, {gone: store.now - LEASE - 1, own: store.now - 20})

    for _ in range(2):
        sweep.round(store.broker(), suspicious=True)
    assert store.held() == set()
    assert store.names() == []


def test_a_message_without_an_index_entry_gets_one(
    store: Store, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(500):
        store.redis.hset(UNACKED, f"lost-{number}", f'[{message("lost")}, "", "mail"]')
    kept = tags_of(GONE, 3)
    for tag in kept:
        store.hold(tag, 60)

    sweep.round(store.broker())
    assert store.held() == set(kept)  # one sweep may happen between two steps of another worker
    sweep.round(store.broker())
    assert len(store.held()) == 503
    assert store.age("lost-7") < 10
    assert store.age(kept[0]) >= 60
    assert "500 messages in kombu's unacked were missing in unacked_index" in caplog.text
    store.calls.clear()
    sweep.round(store.broker())
    sweep.round(store.broker())
    assert sweep_scripts.MEND not in store.calls


def test_an_item_that_is_no_json_goes_back_unchanged(store: Store, sweep: Sweep) -> None:
    (tag,) = tags_of(GONE, 1)
    item = b'gar"rubbish\xff, "", "mail'
    store.hold_entry(tag, b"[" + item + b', "", "mail"]', LEASE + 1)

    sweep.round(store.broker())
    assert client(store.port, "operator").lrange("mail", 0, -1) == [item]
    assert store.held() == set()


def test_an_item_that_is_no_message_goes_back_unchanged(store: Store, sweep: Sweep) -> None:
    (tag,) = tags_of(GONE, 1)
    store.hold_entry(tag, '[[1, 2], "", "mail"]', LEASE + 1)

    sweep.round(store.broker())
    assert client(store.port, "operator").lrange("mail", 0, -1) == [b"[1, 2]"]


def test_a_message_that_cant_be_put_back_stays_and_blocks_no_other(
    store: Store, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    strange, wrong, good = tags_of(GONE, 3)
    store.hold_entry(strange, "no entry of kombu's", LEASE + 3)
    store.hold_entry(wrong, f'[{message(wrong)}, "", "bulk"]', LEASE + 2)
    store.redis.hset("bulk", "of another", "type")
    store.hold(good, LEASE + 1)

    for _ in range(2):
        sweep.round(store.broker())
    assert store.names() == [good]
    assert store.held() == {strange, wrong}
    assert store.redis.hexists(UNACKED, wrong)
    assert store.age(wrong) < LEASE, "it is tried again after a lease, not in each round"
    kept = [record.message for record in caplog.records if "stays in kombu's" in record.message]
    assert len(kept) == 2
    assert any("WRONGTYPE" in line for line in kept)


def test_messages_are_put_back_at_the_memory_limit(store: Store, sweep: Sweep) -> None:
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, LEASE + 1)
    store.admin.config_set("maxmemory", 1)

    sweep.round(store.broker())
    assert store.names() == [tag]


def test_nothing_is_looked_for_while_redis_refuses_writes(store: Store, sweep: Sweep) -> None:
    """Even if nothing has expired yet: its owner can't renew it, and a sweep must know that when it does expire."""
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, 0)
    store.admin.config_set("min-replicas-to-write", 1)

    with pytest.raises(RedisError, match="NOREPLICAS"):
        sweep.round(store.broker())


def test_nothing_to_do_is_one_command(store: Store, sweep: Sweep) -> None:
    store.hold(tags_of(GONE, 1)[0], 10)
    sweep.round(store.broker(), suspicious=True)
    assert store.calls == [sweep_scripts.LOOK]


def test_the_log_names_the_previous_owner(
    store: Store, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    for tag in tags_of(GONE, 2):
        store.hold(tag, LEASE + 1)
    sweep.round(store.broker())
    assert [record.message for record in caplog.records] == [
        "put back 2 messages, since no lease covers them any more: 2 of gone@test"
    ]


# --- Redis' clock is set ------------------------------------------------------------------------------


class Clocks:
    """A real Redis whose clock and ours are set by the test."""

    def __init__(self, store: Store) -> None:
        self.ours = 0.0
        self.ahead = 0.0
        self._broker = store.broker()

    def broker(self) -> Broker:
        def run(script: Script, keys: Any, args: Any) -> Any:
            text = script.text.replace("now[1] +", f"now[1] + {self.ahead + self.ours} +")
            return self._broker.run(Script(text), keys, args)

        return replace(self._broker, run=run)


@pytest.mark.parametrize("seconds", [LEASE + 5, 3600])
def test_a_clock_that_is_set_forward_takes_nothing_from_living_workers(
    store: Store, known: set[str], seconds: float
) -> None:
    clocks = Clocks(store)
    sweep = Sweep(OWN, lambda: known, LEASE, STOCK, clock=lambda: clocks.ours)
    alive, dead = tags_of(GONE, 2)
    clocks.ours += 60
    assert not sweep.round(clocks.broker())
    for tag in (alive, dead):
        store.hold(tag, 0 - clocks.ours)
    stock = "5d3a0cbd-3a51-4a63-a1b0-2d5c1b0e8d11"
    store.hold(stock, 0 - clocks.ours)
    clocks.ours += 5

    clocks.ahead = seconds
    assert not sweep.round(clocks.broker())
    clocks.ours += 5
    # The living worker has renewed its lease; the other one has not.
    store.redis.zadd(INDEX, {alive: store.now + clocks.ours + clocks.ahead})
    assert not sweep.round(clocks.broker())
    assert store.held() == {alive, dead, stock}
    clocks.ours += 5
    sweep.round(clocks.broker())
    assert store.names() == [dead]
    assert store.held() == {alive, stock}
    # A stock worker renews nothing, so the change of the clock is subtracted from its age.
    clocks.ours += STOCK - 20
    store.redis.zadd(INDEX, {alive: store.now + clocks.ours + clocks.ahead})
    sweep.round(clocks.broker())
    assert store.held() == {alive, stock}
    clocks.ours += 30
    store.redis.zadd(INDEX, {alive: store.now + clocks.ours + clocks.ahead})
    sweep.round(clocks.broker())
    assert store.held() == {alive}


def test_a_clock_that_is_set_back_puts_nothing_back(store: Store, sweep: Sweep) -> None:
    clocks = Clocks(store)
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, 0)
    sweep.round(clocks.broker())
    clocks.ahead = -3600
    sweep.round(clocks.broker())
    assert store.held() == {tag}


def test_a_starting_worker_gives_the_others_time_to_renew(store: Store, known: set[str]) -> None:
    now = 0.0
    sweep = Sweep(OWN, lambda: known, LEASE, STOCK, clock=lambda: now)
    (tag,) = tags_of(GONE, 1)
    store.hold(tag, LEASE + 1)
    sweep.round(store.broker())
    assert store.held() == {tag}
    now = lease_sweep.RENEWED
    sweep.round(store.broker())
    assert store.names() == [tag]


def test_order_is_by_number_within_an_owner_and_by_time_between_owners() -> None:
    a, b = tags_of(Owner("a@test"), 16), tags_of(Owner("b@test"), 2)
    places = [
        UnackedEntry(a[15], b"50"),
        UnackedEntry(b[0], b"10"),
        UnackedEntry(a[2], b"20"),
        UnackedEntry("stock-2", b"30"),
        UnackedEntry("stock-1", b"15"),
        UnackedEntry(b[1], b"60"),
    ]
    assert [place.tag for place in in_order(places)] == [
        b[0],
        "stock-1",
        a[2],
        "stock-2",
        a[15],
        b[1],
    ]
    assert holders(places) == "2 of a@test, 2 of b@test, 2 of a stock worker"
