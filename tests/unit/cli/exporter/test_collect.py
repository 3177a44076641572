"""Parts are collected in parallel: one that fails or hangs does not affect the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from celery_fleet.cli.exporter import collect
from celery_fleet.cli.exporter.collect import Collector, MetricPart
from celery_fleet.cli.exporter.samples import MetricSample
from tests.unit.cli.exporter.documents import labels, parsed

Collect = Callable[[], Iterable[MetricSample] | None]


class Parts:
    """Two parts; a test replaces the second."""

    def __init__(self, bad: Collect, interval: float = 0.0, failing: tuple[MetricSample, ...] = ()):
        self.said: list[str] = []
        self.collected = 0
        parts = [MetricPart("good", self.good), MetricPart("bad", bad, failing)]
        self.collector = Collector(
            parts,
            interval,
            lambda: [MetricSample("celery_fleet_build_info", 1.0, ("1", "true"))],
            self.say,
        )

    def good(self) -> list[MetricSample]:
        self.collected += 1
        return [MetricSample("celery_fleet_messages_held", float(self.collected))]

    def say(self, line: str) -> None:
        self.said.append(line)

    def read(self) -> dict[str, Any]:
        return parsed(self.collector.text())


def dead_letters(number: float = 5.0) -> list[MetricSample]:
    return [MetricSample("celery_fleet_dead_letters", number)]


def half() -> Iterable[MetricSample]:
    yield MetricSample("celery_queue_length", 1.0, ("mail",))
    raise OSError("gone")


def broken() -> Iterable[MetricSample]:
    raise KeyError("slots")


@pytest.mark.parametrize("bad", [half, broken])
def test_a_part_that_fails_is_left_out_as_a_whole(bad: Collect) -> None:
    parts = Parts(bad, failing=(MetricSample("celery_fleet_redis_up", 0.0, ("broker",)),))
    found = parts.read()
    assert found["celery_fleet_collect_error"] == {labels(part="good"): 0, labels(part="bad"): 1}
    assert "celery_queue_length" not in found
    assert found["celery_fleet_messages_held"] == {labels(): 1}
    assert found["celery_fleet_redis_up"] == {labels(redis="broker"): 0}
    assert {*found["celery_fleet_collected_timestamp_seconds"]} == {labels(part="good")}
    assert {*found["celery_fleet_collect_seconds"]} == {labels(part="good"), labels(part="bad")}


def test_a_part_that_hangs_does_not_delay_an_answer_and_is_not_started_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collect, "DEADLINE", 1)
    end, begun = threading.Event(), threading.Semaphore(0)

    def hangs() -> list[MetricSample]:
        begun.release()
        end.wait(60)
        return dead_letters()

    parts = Parts(hangs, failing=(MetricSample("celery_fleet_redis_up", 0.0, ("broker",)),))
    for number in (1, 2):
        found = parts.read()
        assert found["celery_fleet_messages_held"] == {labels(): number}
        assert found["celery_fleet_collect_error"][labels(part="bad")] == 1
        assert found["celery_fleet_redis_up"] == {labels(redis="broker"): 0}
    assert parts.said == ["<4>bad: no answer within 1 s"]
    assert begun.acquire(blocking=False)
    assert not begun.acquire(blocking=False)
    monkeypatch.setattr(collect, "DEADLINE", 30)
    end.set()
    assert parts.read()["celery_fleet_dead_letters"] == {labels(): 5}
    assert parts.said[1:] == ["<6>bad: works again"]


def test_a_scrape_is_answered_within_five_seconds() -> None:
    assert collect.DEADLINE < 5 - 0.5


def test_within_the_interval_the_last_answer_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts, now = Parts(dead_letters, interval=15), 1000.0
    monkeypatch.setattr(collect.time, "monotonic", lambda: now)
    first = parts.collector.text()
    now += 13
    assert parts.collector.text() == first
    # A scrape that comes 0.2 s early gets new values.
    now += 1.8
    assert parts.collector.text() != first
    assert parts.collected == 2


def test_many_scrapes_at_once_collect_only_once() -> None:
    parts = Parts(dead_letters, interval=60)
    start = threading.Barrier(8)
    answers: list[bytes] = []

    def scrape() -> None:
        start.wait()
        answers.append(parts.collector.text())

    threads = [threading.Thread(target=scrape) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parts.collected == 1
    assert len({*answers}) == 1


def test_a_part_can_keep_its_last_values_and_their_time() -> None:
    answers: list[list[MetricSample] | None] = [dead_letters(), None]
    parts = Parts(lambda: answers.pop(0))
    first = parts.read()
    second = parts.read()
    assert second["celery_fleet_dead_letters"] == {labels(): 5}
    name, own = "celery_fleet_collected_timestamp_seconds", labels(part="bad")
    assert second[name][own] == first[name][own] <= time.time()
    assert second[name][labels(part="good")] > first[name][labels(part="good")]


def test_an_error_is_logged_when_it_changes() -> None:
    errors = ["a", "a", "b", ""]

    def fails() -> list[MetricSample]:
        if error := errors.pop(0):
            raise OSError(error)
        return []

    parts = Parts(fails)
    for _ in range(4):
        parts.read()
    assert parts.said == ["<4>bad: a", "<4>bad: b", "<6>bad: works again"]
