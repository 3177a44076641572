"""Workers that begin a task at most once, killed just when a task begins."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.delivery.scripts import BEGIN
from tests.outage import DELIVERY, QUEUE, Server, Worker, cut, wait_for, working
from tests.outage import SHOP as PLAIN

SHOP = """
import os, signal, time
from celery import Celery
from celery.worker.request import Request

app = Celery("shop")
on_accepted = Request.on_accepted


def late(self, *args, **kwargs):
    # A worker that is busy reads late that its pool has accepted a task. One that is killed doesn't read it.
    time.sleep(10 if self.name == "shop.kills_worker" else 1)
    on_accepted(self, *args, **kwargs)


Request.on_accepted = late


def write(text):
    with open(os.path.join(os.environ["LEDGER"], "ledger"), "a") as file:
        file.write(text + chr(10))


@app.task
def kills_worker(number):
    write(f"start {number}")
    os.kill(os.getppid() if os.environ["POOL"] == "prefork" else os.getpid(), signal.SIGKILL)
    time.sleep(60)


@app.task
def work(number, seconds=0):
    write(f"start {number}")
"""

#: Seconds until kombu puts back what a killed worker held.
VISIBILITY = 2


def killed(directory: Path, server: Server, pool: str, delivery: dict[str, Any]) -> Worker:
    """Let the first task that a worker begins kill it; return a worker that replaces it."""
    conf = {
        "task_acks_late": False,
        "broker_transport_options": {"visibility_timeout": VISIBILITY},
    }
    options = ("-P", pool, "-c", "1")
    first = Worker(directory, server, *options, conf=conf, delivery=delivery, shop=SHOP)
    first.start()
    try:
        first.ready()
        with first.app() as app:
            app.send_task("shop.kills_worker", (0,))
        assert first.process is not None
        first.process.wait(60)
    finally:
        first.stop()
    return first


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_whose_worker_is_killed_does_not_begin_again(tmp_path: Path, pool: str) -> None:
    server = Server(tmp_path / "redis")
    try:
        worker = killed(tmp_path, server, pool, {"profile": "at_most_once"})
        assert worker.times("start") == {0: 1}
        assert server.client.hlen("unacked") == 0
        assert server.client.llen(QUEUE) == 0
    finally:
        server.end()


@pytest.mark.slow
def test_without_the_promise_its_message_is_left_behind(tmp_path: Path) -> None:
    """Celery only acknowledges a task once it has heard that the task runs; the test above covers that gap."""
    server = Server(tmp_path / "redis")
    try:
        killed(tmp_path, server, "prefork", {})
        assert server.client.hlen("unacked") == 1
    finally:
        server.end()


@pytest.mark.slow
def test_a_message_that_was_put_back_meanwhile_does_not_begin(tmp_path: Path) -> None:
    server = Server(tmp_path / "redis")
    conf = {"task_acks_late": False, "worker_prefetch_multiplier": 4}
    worker = Worker(
        tmp_path, server, "-c", "1", conf=conf, delivery={"profile": "at_most_once"}, shop=SHOP
    )
    worker.start()
    try:
        worker.ready()
        with worker.app() as app:
            app.send_task("shop.work", (1,), countdown=15)
            wait_for(lambda: server.client.hlen("unacked") == 1, "held until its time comes")
            # Kombu does this if a message was held for longer than the visibility timeout.
            for tag in server.client.hkeys("unacked"):
                server.client.hdel("unacked", tag)
            app.send_task("shop.work", (2,), countdown=16)
            worker.done([2], "start")
        assert worker.times("start") == {2: 1}
        assert "its message has been put back in the meantime" in worker.log
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0
    finally:
        worker.stop()
        server.end()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("-P", "threads", "-c", "2"),
        pytest.param(("-P", "gevent", "-c", "2"), marks=pytest.mark.long),
        ("-c", "1", "--max-tasks-per-child", "1"),
    ],
    ids=lambda options: options[1],
)
def test_a_stop_loses_no_task_that_waits_in_the_pool(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Its message is acknowledged already, so no other worker can run it."""
    conf = {"task_acks_late": False, "worker_prefetch_multiplier": 4}
    delivery = {**DELIVERY, "profile": "at_most_once", "dead_letters": True}
    with working(tmp_path, *options, conf=conf, delivery=delivery) as worker:
        numbers = worker.send(20, 0.5)
        wait_for(lambda: len(worker.times("start")) >= 2, "two have begun")
        assert worker.exit()[0] == 0
        begun = worker.times("start")
        assert begun == worker.times("end") == dict.fromkeys(begun, 1)
        left = worker.server.client.llen(QUEUE) + worker.unacked
        assert len(begun) + left == len(numbers)


@pytest.mark.slow
def test_a_task_whose_acknowledgement_is_refused_begins_later(tmp_path: Path) -> None:
    delivery = {**DELIVERY, "profile": "at_most_once", "dead_letters": True}
    with working(tmp_path, "-c", "1", conf={"task_acks_late": False}, delivery=delivery) as worker:
        client = worker.server.client
        with worker.app() as app:
            app.send_task("shop.work", (0,), countdown=15)
        wait_for(lambda: worker.unacked == 1, "it waits for its time")
        client.config_set("min-replicas-to-write", 1)
        wait_for(lambda: "does not start now" in worker.log, "Redis has refused it")
        client.config_set("min-replicas-to-write", 0)
        worker.done([0])
        assert worker.unacked == 0
        assert worker.exit()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("fetch", [{}, DELIVERY], ids=["stock", "atomic"])
@pytest.mark.parametrize("again", ["asks", "connects"])
def test_a_task_begins_once_although_the_reply_to_its_acknowledgement_is_lost(
    tmp_path: Path, fetch: dict[str, Any], again: str
) -> None:
    delivery = {**fetch, "profile": "at_most_once"}
    conf = {"task_acks_late": False}
    options = ("-P", "threads", "-c", "1")
    with working(tmp_path, *options, conf=conf, delivery=delivery, proxied=True) as worker:
        assert worker.proxy is not None
        worker.done(worker.send(1, 0))  # Redis knows the script now
        with worker.app() as app:
            app.send_task("shop.work", (1,), countdown=15)
        wait_for(lambda: worker.unacked == 1, "it waits for its time")
        worker.proxy.lose_reply_to = BEGIN.sha.encode()
        wait_for(lambda: "does not start now" in worker.log, "it got no answer")
        assert worker.unacked == 0
        if again == "connects":
            cut(worker)
        worker.done([1])
        wait_for(lambda: worker.unacked == 0 and not worker.server.client.llen(QUEUE), "all done")
        assert worker.times("start") == {0: 1, 1: 1}
        assert len(worker.server.client.keys("fleet:claim:*")) <= 1
        assert worker.exit()[0] == 0


#: Its processes start when the test says so, after the worker has fetched a task.
SLOW_START = (
    PLAIN
    + """

@signals.worker_process_init.connect
def slow(**_):
    while not os.path.exists(os.path.join(os.environ["LEDGER"], "go")):
        time.sleep(0.05)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("guards", [False, True], ids=["stock", "outage"])
def test_a_lost_connection_drops_no_task_that_waits_in_the_pool(
    tmp_path: Path, guards: bool
) -> None:
    """Its message is acknowledged, and the process that is to run it has not started."""
    delivery = {"profile": "at_most_once", "fetch": "atomic", "lease": True, "outage": guards}
    conf = {"task_acks_late": False, "worker_proc_alive_timeout": 600}
    options = ("-P", "prefork", "-c", "1")
    with working(tmp_path, *options, conf=conf, delivery=delivery, shop=SLOW_START) as worker:
        numbers = worker.send(1, 0)
        wait_for(lambda: "] received" in worker.log and not worker.unacked, "acknowledged")
        assert worker.times("start") == {}
        cut(worker)
        wait_for(lambda: worker.log.count("Connected to redis") == 2, "it has connected again")
        worker.go()
        worker.done(numbers)
        assert worker.times("start") == dict.fromkeys(numbers, 1)
        assert worker.exit()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("fetch", [{}, DELIVERY], ids=["stock", "atomic"])
@pytest.mark.parametrize(
    "options",
    [("-P", "threads"), ("-P", "prefork"), ("-P", "prefork", "--max-tasks-per-child", "1")],
    ids=["threads", "prefork", "renewed"],
)
def test_a_pool_takes_no_more_tasks_than_it_runs(
    tmp_path: Path, options: tuple[str, ...], fetch: dict[str, Any]
) -> None:
    """A killed worker would lose the others. Prefork takes more after a lost connection, and if a process has ended."""
    conf = {"task_acks_late": False, "worker_prefetch_multiplier": 1}
    delivery = {**fetch, "profile": "at_most_once"}
    with working(tmp_path, *options, "-c", "2", conf=conf, delivery=delivery) as worker:
        client = worker.server.client
        long = worker.send(100, 2)

        def runs_all_that_it_took(begun: int) -> bool:
            taken = len(long) - client.llen(QUEUE) - worker.unacked
            return worker.unacked == 2 and taken == len(worker.times("start")) >= begun

        wait_for(partial(runs_all_that_it_took, 2), "two run, and two more are fetched")
        # The pool has not noticed that.
        cut(worker)
        wait_for(partial(runs_all_that_it_took, 6), "no more run than before")
        client.delete(QUEUE)

        # A new process for each takes a while.
        quick = worker.send(8 if "--max-tasks-per-child" in options else 40, 0, first=len(long))
        begin = time.monotonic()
        worker.done(quick)
        # Of the long ones, two run and two wait. An event loop that nothing wakes looks once a second.
        assert time.monotonic() - begin < 18
        assert worker.exit()[0] == 0
