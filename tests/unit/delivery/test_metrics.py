"""What real workers count about their tasks, and the sending time in messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.delivery.keys import SENT
from tests.fleet import Fleet, client
from tests.unit.delivery import counting
from tests.unit.delivery.workers import ATOMIC, SHOP, STOCK, Workers, working

pytestmark = pytest.mark.slow

SENDER = """
from shop import app
app.send_task("shop.work", ("name",), ignore_result=True)
"""
SCHEDULE = """
app.conf.beat_schedule = {"often": {"task": "shop.work", "schedule": 1.0, "args": ["name"]}}
"""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with working(tmp_path) as made:
        yield made
        assert made.store.refused() == []


@pytest.mark.parametrize(
    ("pool", "events"),
    [
        ("prefork", True),
        ("threads", False),
        *(
            pytest.param(pool, events, marks=pytest.mark.long)
            for pool, events in (
                *(("prefork", False), ("threads", True), ("solo", False)),
                *(("solo", True), ("gevent", False), ("gevent", True)),
            )
        ),
    ],
)
def test_a_worker_counts_every_end_of_a_task(workers: Workers, pool: str, events: bool) -> None:
    options = ("-P", pool, *(() if pool == "solo" else ("-c", "4")), *(["-E"] if events else []))
    found = counting.run_everything(workers, *options)
    counting.check(found, prefork=pool == "prefork")
    assert (workers.directory / "w" / "metrics.json").stat().st_mode & 0o777 == 0o640


def test_counts_continue_when_the_worker_starts_again(workers: Workers) -> None:
    for number in (1, 2):
        workers.start("w", "-P", "threads", "-c", "1", CELERY_FLEET_RELEASE=f"release-{number}")
        workers.send("work", f"task-{number}")
        workers.until(lambda n=number: workers.ledger.count("end")[f"task-{n}"], "it has ended")
        workers.stop("w")
        found = workers.metrics("w")
        assert found["release"] == f"release-{number}"
        assert found["drains"] == number
        [task] = found["tasks"]
        assert (task["received"], task["started"], task["succeeded"]) == (number, number, number)
        assert sum(task["runtime"]["buckets"]) == number
        assert found["waits"][0]["unknown"] == number


def test_the_file_shows_what_a_worker_holds(workers: Workers) -> None:
    counting.hold(workers)


def test_a_worker_that_drains_still_has_its_queues_in_the_file(workers: Workers) -> None:
    """So an only worker that drains for long does not seem to be missing."""
    workers.start("w", "-P", "threads", "-c", "1", **counting.writing_every(workers, 0.2))
    workers.send("wait", "first")
    workers.until(lambda: workers.ledger.count("begin")["first"], "it runs")
    process = workers.running["w"]
    process.terminate()
    workers.until(lambda: workers.metrics("w")["drains"] == 1, "it drains")
    assert workers.metrics("w")["queues"] == ["mail"]
    workers.go("w")
    assert process.wait(60) == 0


@pytest.mark.parametrize("delivery", [ATOMIC, STOCK], ids=["atomic", "stock"])
def test_a_message_that_is_handed_back_keeps_its_sending_time(
    workers: Workers, delivery: dict[str, Any]
) -> None:
    options = ("-P", "threads", "-c", "1", "--prefetch-multiplier", "2")
    workers.start("w", *options, delivery=delivery, visibility=3600)
    workers.send("wait", "first")
    workers.until(lambda: workers.ledger.count("begin")["first"], "it runs")
    workers.send("work", "second", headers={SENT: 1234.567})
    workers.until(lambda: len(workers.tags()) == 2, "the worker has both")
    process = workers.running["w"]
    process.terminate()
    look = client(workers.store.port, "operator")
    workers.until(lambda: look.llen("mail"), "it is handed back")
    [item] = look.lrange("mail", 0, -1)
    workers.go("w")
    assert json.loads(item)["headers"][SENT] == 1234.567
    assert process.wait(60) == 0


@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("user", ["producer", "beat"])
def test_processes_of_the_fleet_add_the_sending_time(
    workers: Workers, user: str, enabled: bool
) -> None:
    fleet = Fleet(workers.directory, {"broker": workers.store.port, "results": workers.store.port})
    fleet.metrics = enabled
    look = client(workers.store.port, "operator")
    before = look.time()[0]
    if user == "producer":
        (workers.directory / "sender.py").write_text(SENDER)
        assert fleet.start("sender", user="producer").wait(60) == 0, fleet.log("producer")
    else:
        (workers.directory / "shop.py").write_text(SHOP + SCHEDULE)
        beat = fleet.start("celery", "-A", "shop", "beat", "-s", "schedule", user="beat")
        workers.until(lambda: look.llen("mail"), "beat has sent a task")
        beat.terminate()
        assert beat.wait(60) == 0
    item = look.lrange("mail", -1, -1)[0]
    headers = json.loads(item)["headers"]
    assert (SENT in headers) is enabled
    if enabled:
        assert before - 1 <= headers[SENT] <= look.time()[0] + 1
        assert round(headers[SENT], 3) == headers[SENT]


def test_a_file_that_cannot_be_written_is_logged_once(workers: Workers) -> None:
    (workers.directory / "w" / "metrics.json.new").mkdir(parents=True)
    options = counting.writing_every(workers, 0.05)
    workers.start("w", "-P", "solo", **options)
    workers.send("work", "task")
    workers.until(lambda: workers.ledger.count("end")["task"], "it has ended")
    workers.stop("w")
    assert workers.log("w").count("can't be written") == 1
