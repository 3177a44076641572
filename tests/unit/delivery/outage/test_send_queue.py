from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from celery_fleet.delivery.outage import send_queue as offloop
from celery_fleet.delivery.outage.send_queue import Lane


class Store:
    """Takes what comes, when it is there."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.there = threading.Event()
        self.tried = 0
        self.error: Exception = OSError("away")

    def __call__(self, item: Any) -> None:
        self.tried += 1
        if not self.there.is_set():
            raise self.error
        self.got.append(item)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloop, "EVENTS_PAUSE", 0.01)
    monkeypatch.setattr(offloop, "RESULTS_PAUSE", 0.01)


def until(look: Any) -> None:
    end = time.monotonic() + 30
    while not look():
        assert time.monotonic() < end
        time.sleep(0.005)


def results(store: Store) -> Lane[Any]:
    return offloop.results_lane(store, lambda exc: isinstance(exc, OSError), str)


def test_items_are_sent_in_order_by_another_thread(store: Store) -> None:
    threads: set[int] = set()
    store.there.set()

    def send(item: Any) -> None:
        threads.add(threading.get_ident())
        store(item)

    lane = offloop.events_lane(send)
    for number in range(100):
        lane.put(number)
    assert lane.close(30) == 0
    assert store.got == list(range(100))
    assert threads
    assert threading.get_ident() not in threads


def test_there_is_no_thread_before_the_first_item(store: Store) -> None:
    before = threading.active_count()
    offloop.events_lane(store)
    assert threading.active_count() == before


def test_put_never_waits(store: Store) -> None:
    holding = threading.Event()
    lane = offloop.events_lane(lambda item: holding.wait(60))
    began = time.monotonic()
    for number in range(100):
        lane.put(number)
    assert time.monotonic() - began < 10
    holding.set()
    lane.close(30)


def test_events_are_dropped_while_the_broker_is_away_and_that_is_told_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lane = offloop.events_lane(store)
    for number in range(3):
        lane.put(number)
        until(lambda: not len(lane))
    assert caplog.text.count("events can't be sent") == 1
    store.there.set()
    lane.put("later")
    assert lane.close(30) == 0
    assert store.got == ["later"]
    assert "3 were dropped" in caplog.text


def test_of_too_many_events_the_oldest_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloop, "EVENTS", 3)
    go_on = threading.Event()
    began = threading.Event()

    def send(item: Any) -> None:
        began.set()
        go_on.wait(60)
        store.got.append(item)

    lane = offloop.events_lane(send)
    lane.put(0)
    assert began.wait(30)
    for number in range(1, 6):
        lane.put(number)
    go_on.set()
    lane.close(30)
    assert store.got == [0, 3, 4, 5]


def test_a_result_is_kept_until_it_is_stored(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lane = results(store)
    lane.put("first")
    lane.put("second")
    until(lambda: store.tried > 5)
    store.there.set()
    assert lane.close(30) == 0
    assert store.got == ["first", "second"]
    assert caplog.text.count("can't be stored yet") == 1
    assert "stored again" in caplog.text


def test_a_result_that_the_store_refuses_does_not_keep_the_others(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def send(item: Any) -> None:
        if item == "bad":
            store.tried += 1
            raise ValueError("no such type")
        store.got.append(item)

    lane = offloop.results_lane(send, lambda exc: False, str)
    lane.put("bad")
    lane.put("good")
    lane.close(30)
    assert store.got == ["good"]
    assert store.tried == offloop.REFUSED
    assert "bad" in caplog.text


def test_the_end_waits_no_longer_than_it_was_told_and_names_what_is_lost(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lane = results(store)
    for name in ("one", "two"):
        lane.put(name)
    until(lambda: store.tried > 1)
    assert lane.close(0.1) == 2
    assert "one, two" in caplog.text


def test_after_the_end_nothing_is_taken(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.there.set()
    lane = results(store)
    lane.put("one")
    lane.close(30)
    lane.put("two")
    assert store.got == ["one"]
    assert "the process ends" in caplog.text
