from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from celery_fleet.delivery.outage import send_queue as send_queue
from celery_fleet.delivery.outage.send_queue import SendQueue
from tests.unit.delivery.consumers import until


class Store:
    """A store that accepts items while it is up."""

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
    monkeypatch.setattr(send_queue, "EVENTS_PAUSE", 0.01)
    monkeypatch.setattr(send_queue, "RESULTS_PAUSE", 0.01)


def results(store: Store) -> SendQueue[Any]:
    return send_queue.results_queue(store, lambda exc: isinstance(exc, OSError), str)


def test_items_are_sent_in_order_by_another_thread(store: Store) -> None:
    threads: set[int] = set()
    store.there.set()

    def send(item: Any) -> None:
        threads.add(threading.get_ident())
        store(item)

    queue = send_queue.events_queue(send)
    for number in range(100):
        queue.put(number)
    assert queue.close(30) == 0
    assert store.got == list(range(100))
    assert threads
    assert threading.get_ident() not in threads


def test_there_is_no_thread_before_the_first_item(store: Store) -> None:
    before = threading.active_count()
    send_queue.events_queue(store)
    assert threading.active_count() == before


def test_put_never_waits(store: Store) -> None:
    holding = threading.Event()
    queue = send_queue.events_queue(lambda item: holding.wait(60))
    began = time.monotonic()
    for number in range(100):
        queue.put(number)
    assert time.monotonic() - began < 10
    holding.set()
    queue.close(30)


def test_events_are_dropped_while_the_broker_is_away_and_that_is_logged_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    queue = send_queue.events_queue(store)
    for number in range(3):
        queue.put(number)
        until(lambda: not len(queue))
    assert caplog.text.count("events can't be sent") == 1
    store.there.set()
    queue.put("later")
    assert queue.close(30) == 0
    assert store.got == ["later"]
    assert "3 were dropped" in caplog.text


def test_if_there_are_too_many_events_the_oldest_are_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_queue, "EVENTS", 3)
    go_on = threading.Event()
    began = threading.Event()

    def send(item: Any) -> None:
        began.set()
        go_on.wait(60)
        store.got.append(item)

    queue = send_queue.events_queue(send)
    queue.put(0)
    assert began.wait(30)
    for number in range(1, 6):
        queue.put(number)
    go_on.set()
    queue.close(30)
    assert store.got == [0, 3, 4, 5]


def test_a_result_is_kept_until_it_is_stored(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    queue = results(store)
    queue.put("first")
    queue.put("second")
    until(lambda: store.tried > 5)
    store.there.set()
    assert queue.close(30) == 0
    assert store.got == ["first", "second"]
    assert caplog.text.count("can't be stored yet") == 1
    assert "stored again" in caplog.text


def test_a_result_that_the_store_refuses_does_not_block_others(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def send(item: Any) -> None:
        if item == "bad":
            store.tried += 1
            raise ValueError("no such type")
        store.got.append(item)

    queue = send_queue.results_queue(send, lambda exc: False, str)
    queue.put("bad")
    queue.put("good")
    queue.close(30)
    assert store.got == ["good"]
    assert store.tried == send_queue.REFUSED
    assert "bad" in caplog.text


def test_the_end_waits_for_the_given_time_and_names_what_is_lost(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    queue = results(store)
    for name in ("one", "two"):
        queue.put(name)
    until(lambda: store.tried > 1)
    assert queue.close(0.1) == 2
    assert "one, two" in caplog.text


def test_after_the_end_nothing_is_accepted(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.there.set()
    queue = results(store)
    queue.put("one")
    queue.close(30)
    queue.put("two")
    assert store.got == ["one"]
    assert "the process ends" in caplog.text
