from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import visibility
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from celery_fleet.delivery.lease import renewal as module
from celery_fleet.delivery.lease.renewal import Lease
from celery_fleet.delivery.messages import Owner
from celery_fleet.delivery.scripts import Script
from celery_fleet.delivery.tags import Tags
from tests.unit.delivery.holding import INDEX, Store

TAGS = Tags(Owner("w@test"))


class Case:
    """A lease for tags that the test sets, with a clock that the test moves."""

    def __init__(self, seconds: float = 300) -> None:
        self.held: list[str] = []
        self.awaited: list[str] = []
        self.now = 1000.0
        self.asked: list[list[str]] = []
        self.down = False
        #: Seconds until Redis answers.
        self.slow = 0.0
        self.lease = Lease(
            lambda: self.held,
            seconds,
            lambda: self.now,
            lambda: self.awaited,
        )

    def _run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> None:
        assert script is module.RENEW
        assert keys == [INDEX]
        if self.down:
            raise RedisConnectionError("refused")
        self.now += self.slow
        self.asked.append(list(args))

    def renew(self) -> int:
        return self.lease.renew(self._run, INDEX)


@pytest.fixture
def case() -> Case:
    return Case()


def test_renewals_use_the_clock_of_redis(store: Store) -> None:
    tags = [TAGS.next() for _ in range(3)]
    for tag in tags:
        store.hold(tag, 250)
    store.hold("another's", 250)
    lease = Lease(lambda: tags, 300)

    assert lease.renew(store.run, INDEX) == 3
    assert all(abs(store.age(tag)) < 60 for tag in tags)
    assert store.age("another's") >= 250


def test_an_entry_that_is_gone_is_not_created_again(store: Store) -> None:
    kept, gone = TAGS.next(), TAGS.next()
    store.hold(kept, 250)
    store.run(module.RENEW, [INDEX], [kept, gone])

    assert store.held() == {kept}


def test_several_batches_are_renewed_in_the_order_of_fetching(store: Store) -> None:
    tags = [TAGS.next() for _ in range(module.BATCH + 10)]
    store.redis.zadd(INDEX, dict.fromkeys(tags, 1.0))
    lease = Lease(lambda: set(tags), 300)

    assert lease.renew(store.run, INDEX) == len(tags)
    assert len(store.calls) == 2
    order = [tag.decode() for tag in store.redis.zrange(INDEX, 0, -1)]
    assert set(order[: module.BATCH]) == set(tags[: module.BATCH])
    assert store.redis.zrangebyscore(INDEX, "-inf", 1) == []


def test_a_redis_at_its_memory_limit_renews(store: Store) -> None:
    tag = TAGS.next()
    store.hold(tag, 250)
    store.admin.config_set("maxmemory", 1)

    assert Lease(lambda: [tag], 300).renew(store.run, INDEX) == 1
    assert store.age(tag) < 60


def test_a_renewal_is_due_at_once_and_then_every_few_seconds(case: Case) -> None:
    """While a longer lease is rolled out, other workers still sweep by the previous, shorter one."""
    assert case.lease.due_in == 0
    case.held = ["a"]
    case.renew()
    assert case.lease.due_in == module.LONGEST_ROUND
    case.now += 4
    assert case.lease.due_in == module.LONGEST_ROUND - 4
    assert (
        module.ROUNDS * module.LONGEST_ROUND <= visibility._SHORTEST_LEASE
    )  # the shortest that preflight accepts


def test_a_short_lease_is_renewed_three_times() -> None:
    case = Case(seconds=3)
    case.held = ["a"]
    case.renew()
    assert case.lease.due_in == 1


def test_without_messages_nothing_is_sent(case: Case) -> None:
    assert case.renew() == 0
    assert case.asked == []
    assert case.lease.due_in == module.LONGEST_ROUND


def test_without_messages_redis_can_be_asked_whether_it_accepts_writes(store: Store) -> None:
    lease = Lease(list, 300)
    assert lease.renew(store.run, INDEX, ask=True) == 0
    assert store.held() == set()
    store.admin.config_set("min-replicas-to-write", 1)

    with pytest.raises(RedisError, match="NOREPLICAS"):
        lease.renew(store.run, INDEX, ask=True)
    assert lease.due_in < module.LONGEST_ROUND


def test_a_failed_renewal_is_retried_soon_and_does_not_count(case: Case) -> None:
    case.held = ["a"]
    case.renew()
    case.now += 100
    case.down = True
    with pytest.raises(RedisConnectionError):
        case.renew()
    assert case.lease.due_in == module.RETRY
    assert case.lease.age == 100
    assert not case.lease.lapsed


def test_a_slow_reply_confirms_the_lease_from_when_it_was_requested(case: Case) -> None:
    """Redis may have renewed the lease as soon as it was asked, so the lease counts from then."""
    case.held = ["a"]
    case.slow = 40
    case.renew()
    assert case.lease.age == 40
    case.now += 261
    assert case.lease.lapsed


def test_a_short_lease_is_retried_sooner() -> None:
    case = Case(seconds=3)
    case.held = ["a"]
    case.down = True
    with pytest.raises(RedisConnectionError):
        case.renew()
    assert case.lease.due_in == 1


def test_a_lapsed_lease_is_logged_once(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.held = ["a", "b"]
    case.renew()
    case.down = True
    case.now += 301
    assert case.lease.lapsed
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            case.renew()
        case.now += 2
    assert [record.message for record in caplog.records] == [
        (
            "the lease of 2 messages was not renewed for 301 s, longer than its 300 s: other workers may run"
            " them, too; an acknowledgement of this worker does not affect theirs"
        )
    ]
    case.down = False
    case.renew()
    assert not case.lease.lapsed
    case.now += 400
    case.renew()
    assert len(caplog.records) == 2


def test_a_fetch_whose_reply_is_not_read_is_renewed(case: Case) -> None:
    case.held = ["a"]
    case.awaited = ["b"]
    assert case.renew() == 2
    assert sorted(case.asked[0]) == ["a", "b"]


def test_an_ended_lease_only_resumes_once_the_process_works_again(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.held = ["a"]
    with caplog.at_level(logging.WARNING):
        case.lease.end("stuck")
        case.lease.end("stuck")
    assert len(caplog.records) == 1
    assert case.lease.due_in == float("inf")
    assert case.renew() == 0
    assert case.asked == []

    case.lease.resume()
    assert case.lease.due_in == 0
    case.renew()
    assert case.asked == [["a"]]


def test_the_lease_can_end_between_two_batches(case: Case) -> None:
    case.held = [TAGS.next() for _ in range(2 * module.BATCH)]

    def run(script: Script, keys: Sequence[str], args: Sequence[Any]) -> None:
        case.asked.append(list(args))
        case.lease.end("stuck")

    assert case.lease.renew(run, INDEX) == module.BATCH
    assert len(case.asked) == 1
