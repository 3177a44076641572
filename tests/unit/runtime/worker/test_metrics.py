from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Reject
from celery.worker import strategy
from celery.worker.request import Request

from celery_fleet.compat import requests
from celery_fleet.delivery.keys import CANARY, SENT
from celery_fleet.worker import metrics
from celery_fleet.worker.metrics import MetricsFile
from celery_fleet.worker.task_counts import (
    BOUNDS,
    MOST_ERRORS,
    MOST_TASKS,
    Recorder,
    check,
)


@dataclass
class Told:
    """A request as the recorder sees it."""

    name: str = "shop.pay"
    sent: Any = None
    queue: str | None = "mail"
    time_start: float = 1000.0
    eta: datetime | None = None
    delivery_info: dict[str, Any] = field(default_factory=lambda: {"routing_key": "key"})

    @property
    def task(self) -> Any:
        return SimpleNamespace(name=self.name)

    @property
    def message(self) -> Any:
        headers = {} if self.sent is None else {SENT: self.sent}
        return SimpleNamespace(queue=self.queue, headers=headers, delivery_info=self.delivery_info)


def wait_of(**told: Any) -> Any:
    recorder = Recorder()
    recorder.seen(Told(**told), requests.STARTED)
    [found] = recorder.counts()[1]
    return found


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0, 0), (0.1, 0), (0.11, 1), (1, 2), (1.5, 3), (3600, 12), (3601, 13), (-5, 0)],
)
def test_a_wait_is_in_the_bucket_of_the_first_bound_that_it_does_not_exceed(
    seconds: float, bucket: int
) -> None:
    found = wait_of(sent=0, time_start=seconds)
    assert found["buckets"] == [int(number == bucket) for number in range(len(BOUNDS) + 1)]
    assert found["sum"] == max(0, seconds)
    assert found["unknown"] == 0


@pytest.mark.parametrize(
    "sent", [-1.7e308, -1, 1e12, 10**400, float("inf"), float("nan"), True, "1", [1]]
)
def test_an_invalid_sending_time_is_an_unknown_wait(sent: Any) -> None:
    """Any sender can write such a value."""
    found = wait_of(sent=sent, time_start=1000.0)
    assert (found["sum"], found["unknown"], sum(found["buckets"])) == (0, 1, 0)


def damaged(**waits: Any) -> dict[str, Any]:
    recorder = Recorder()
    for what in (requests.RECEIVED, requests.STARTED):
        recorder.seen(Told(), what)
    tasks, found = recorder.counts()
    return {"tasks": tasks, "waits": [{**found[0], **waits}]}


def test_counts_that_were_written_can_be_continued() -> None:
    check(**damaged())


@pytest.mark.parametrize(
    "found",
    [
        damaged(sum=float("inf")),
        damaged(buckets=[1]),
        damaged(unknown=None),
        {"tasks": [{"name": "t", "queue": "q"}], "waits": []},
        {"tasks": [None], "waits": []},
        {"tasks": None, "waits": []},
    ],
)
def test_counts_that_a_task_has_damaged_are_refused(found: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        check(**found)


def test_a_wait_begins_at_a_later_eta() -> None:
    due = datetime.fromtimestamp(990, UTC)
    assert wait_of(sent=900.0, eta=due)["sum"] == 10
    assert wait_of(sent=995.0, eta=due)["sum"] == 5


@pytest.mark.parametrize("sent", [None, "900", math.nan, math.inf, [900]])
def test_a_message_without_a_time_has_an_unknown_wait(sent: Any) -> None:
    found = wait_of(sent=sent)
    assert (found["unknown"], sum(found["buckets"]), found["sum"]) == (1, 0, 0)


def test_a_message_without_a_queue_has_its_routing_key() -> None:
    assert wait_of(queue=None)["queue"] == "key"
    assert wait_of(queue=None, delivery_info=None)["queue"] == ""


def test_names_beyond_the_limit_are_counted_together() -> None:
    recorder = Recorder()
    for number in range(MOST_TASKS + 3):
        for queue in ("mail", "bulk"):
            recorder.seen(Told(f"task-{number}", queue=queue), requests.RECEIVED)
    for number in range(MOST_ERRORS + 3):
        recorder.seen(Told("task-0"), requests.FAILED, f"Error{number}")
    recorder.seen(Told("task-0"), requests.FAILED, "Error0")
    tasks = {(one["name"], one["queue"]): one for one in recorder.counts()[0]}
    # Two queues, so half as many names, and the others of each queue.
    assert len(tasks) == MOST_TASKS + 2
    rest = MOST_TASKS // 2 + 3
    assert tasks["other", "mail"]["received"] == tasks["other", "bulk"]["received"] == rest
    failed = tasks["task-0", "mail"]["failed"]
    assert len(failed) == MOST_ERRORS + 1
    assert (failed["Error0"], failed["other"]) == (2, 3)


def test_a_canary_is_not_counted() -> None:
    recorder = Recorder()
    recorder.seen(Told(CANARY), requests.STARTED)
    assert recorder.counts() == ([], [])


def test_counts_are_a_copy() -> None:
    recorder = Recorder()
    recorder.seen(Told(sent=0), requests.STARTED)
    recorder.seen(Told(), requests.SUCCEEDED, 1.0)
    before = json.dumps(recorder.counts())
    copy = recorder.counts()
    recorder.seen(Told(sent=0), requests.STARTED)
    recorder.seen(Told(), requests.SUCCEEDED, 1.0)
    recorder.seen(Told(), requests.FAILED, "ValueError")
    assert json.dumps(copy) == before


def file_at(path: Path, recorder: Recorder) -> MetricsFile:
    worker = SimpleNamespace(
        hostname="mail@worker1", pool=None, pool_cls=None, consumer=None, blueprint=None
    )
    return MetricsFile(
        path,
        worker,
        recorder,
        counts_tasks=True,
        is_ending=lambda: False,
        scaling=lambda: {"min": 2, "max": 10, "blocked": False, "ups": 3, "downs": 1},
    )


def counts_of(**values: Any) -> str:
    zero = {"drains": 1, "tasks": [], "waits": [], "scaling": {"ups": 0, "downs": 0}}
    return json.dumps({"format": 1, **zero, **values})


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"format": 2}', '{"format": 1, "drains": 1}', "[" * 200_000),
        counts_of(drains=float("inf")),
        counts_of(scaling={"ups": 1, "downs": 0}).replace('"ups": 1', '"ups": 1e999'),
        counts_of(**damaged(sum=10**400)),
        counts_of() + " " * (5 << 20),
    ],
    ids=lambda text: text[:80],
)
def test_a_file_that_cannot_be_read_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "worker-mail.json"
    path.write_text(text)
    file = file_at(path, Recorder())
    file.start()
    file.end()
    [record] = caplog.records
    assert "so its counts start at 0" in record.message
    found = json.loads(path.read_text())
    assert (found["tasks"], found["waits"], found["drains"]) == ([], [], 0)


def test_a_pipe_in_place_of_the_file_does_not_stop_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "worker-mail.json"
    os.mkfifo(path)
    file = file_at(path, Recorder())
    file.start()
    file.end()
    assert json.loads(path.read_text())["tasks"] == []


def test_changes_of_the_pool_are_counted_across_starts(tmp_path: Path) -> None:
    path = tmp_path / "worker-mail.json"
    for number in (1, 2):
        file = file_at(path, Recorder())
        file.start()
        file.end()
        found = json.loads(path.read_text())["scaling"]
        assert found == {
            "min": 2,
            "max": 10,
            "blocked": False,
            "ups": 3 * number,
            "downs": number,
        }


def test_a_missing_directory_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = file_at(tmp_path / "missing" / "worker-mail.json", Recorder())
    assert [file.turn(), file.turn()] == [metrics.INTERVAL] * 2
    assert [record.message.count("can't be written") for record in caplog.records] == [1]


def test_a_file_that_can_not_be_replaced_stays_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk tasks go on, so the worker must not seem to hang."""
    path = tmp_path / "worker-mail.json"
    file = file_at(path, Recorder())
    file.turn()
    before = path.read_text()
    os.utime(path, (1000, 1000))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metrics.json_file, "replace", full)
    file.turn()
    assert path.read_text() == before
    assert path.stat().st_mtime == pytest.approx(time.time(), abs=60)


# --- running tasks ---


def overrun(monkeypatch: pytest.MonkeyPatch, *running: Any, of_pool: float | None = None) -> float:
    """Return what a worker shows while these requests run."""
    monkeypatch.setattr(requests.worker_state, "active_requests", running)
    return requests.held(SimpleNamespace(time_limit=of_pool)).overrun


def running(
    seconds: float | None, of_message: Any = None, of_task: float | None = None, **more: Any
) -> Any:
    """Return a request that has run for some seconds."""
    return SimpleNamespace(
        time_limits=(of_message, None),
        task=SimpleNamespace(time_limit=of_task),
        time_start=None if seconds is None else time.time() - seconds,
        **more,
    )


@pytest.mark.parametrize(
    ("of_message", "of_task", "of_pool", "expected"),
    [
        (None, None, None, 0),
        (None, None, 60, 940),
        (None, 900, 60, 100),
        (None, 1800, 60, 0),
        (400, 900, 60, 600),
        (1800, 900, 60, 0),
        *((limit, None, None, 0) for limit in ("60", 10**400, math.nan, -math.inf, -1)),
    ],
)
def test_a_running_task_is_judged_by_its_own_hard_time_limit(
    monkeypatch: pytest.MonkeyPatch,
    of_message: Any,
    of_task: float | None,
    of_pool: float | None,
    expected: float,
) -> None:
    request = running(1000, of_message, of_task)
    found = overrun(monkeypatch, running(10), request, running(None), of_pool=of_pool)
    assert found == pytest.approx(expected, abs=5)


def test_a_task_that_waits_exceeds_no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait behind others that it was prefetched with, for its ETA, or for its rate limit."""
    long_ago = datetime.fromtimestamp(1000, UTC)
    waiting = running(None, 60, celery_fleet_received=1000.0, eta=long_ago)
    monkeypatch.setattr(requests.worker_state, "reserved_requests", [waiting])
    assert overrun(monkeypatch) == 0


# --- the hooks ---


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore Celery's own classes after the test."""
    monkeypatch.setattr(strategy, "create_request_cls", strategy.create_request_cls)


@pytest.mark.usefixtures("stock")
def test_a_celery_without_the_hooks_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Request, "send_event")
    assert requests.follow(lambda *_: None) is False
    monkeypatch.undo()
    monkeypatch.delattr(strategy, "create_request_cls")
    assert requests.follow(lambda *_: None) is False


class Base:
    """The parts of Celery's Request that are followed."""

    def on_success(self, result: Any, **_: Any) -> str:
        return f"success {result}"

    def on_failure(self, exc_info: Any, *_: Any) -> None:
        self.send_event("task-failed", exception=repr(exc_info.exception))

    def send_event(self, event: str, **fields: Any) -> str:
        return f"sent {event} {fields}"


def followed(monkeypatch: pytest.MonkeyPatch, seen: Any) -> Any:
    monkeypatch.setattr(strategy, "create_request_cls", lambda *_: Base)
    assert requests.follow(seen)
    return strategy.create_request_cls(None, None)()


@pytest.mark.usefixtures("stock")
def test_an_end_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    request = followed(monkeypatch, lambda _, what, detail: said.append((what, detail)))
    assert request.send_event("task-started") == "sent task-started {}"
    assert request.on_success((0, "value", 1.5)) == "success (0, 'value', 1.5)"
    request.send_event("task-succeeded", runtime=1.5)
    request.send_event("task-revoked")
    request.send_event("task-rejected")
    ends = [("succeeded", 1.5), ("rejected", None)]
    assert said == [("received", None), ("started", None), *ends]


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError("secret"), "ValueError"),
        (SystemExit(1), "WorkerLostError"),
        (Reject("not wanted"), None),
    ],
)
def test_a_failure_has_the_name_of_its_exception(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str | None
) -> None:
    said: list[Any] = []
    request = followed(monkeypatch, lambda _, what, detail: said.append((what, detail)))
    request.on_failure(SimpleNamespace(exception=error))
    assert said[1:] == ([] if name is None else [("failed", name)])


@pytest.mark.usefixtures("stock")
def test_an_error_in_the_counts_is_logged_once_and_affects_no_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    request = followed(monkeypatch, lambda *_: 1 / 0)
    for _ in range(2):
        assert request.send_event("task-started") == "sent task-started {}"
    assert [record.message for record in caplog.records] == ["tasks can't be counted"]
