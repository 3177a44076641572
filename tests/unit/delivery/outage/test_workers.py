"""Real workers whose real Redis is stopped, killed, restarted, or reached through a slow proxy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_fleet.delivery.messages import owner_of
from tests import outage
from tests.outage import DELIVERY, SHOP, Server, Worker, cut, wait_for, working

pytestmark = pytest.mark.slow

#: Seconds for which the loop may stand still: a reply that does not come (3), gossip's second, and a slow machine. With
#: stock, a single attempt to reach a hanging Redis lasts as long as the hang.
LONGEST = 8.0


def settled(worker: Worker, numbers: list[int]) -> None:
    """Wait until each task has run once and nothing is held."""
    worker.done(numbers)
    wait_for(lambda: worker.unacked == 0, "nothing unacked")
    assert dict.fromkeys(numbers, 1) == worker.times("start")
    assert dict.fromkeys(numbers, 1) == worker.times("end")
    assert worker.server.client.llen("mail") == 0
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(
    "pool",
    [
        "prefork",
        "spawn",
        pytest.param("threads", marks=pytest.mark.long),
        pytest.param("solo", marks=pytest.mark.long),
    ],
)
def test_running_tasks_continue_through_lost_connections(tmp_path: Path, pool: str) -> None:
    conf = {"worker_prefetch_multiplier": 8}
    with working(tmp_path, *outage.pool(pool), "-c", "2", conf=conf) as worker:
        numbers = worker.send(10, 1.0)
        worker.done([0], "start")
        for _ in range(3):
            cut(worker)
        settled(worker, numbers)
        assert worker.exit()[0] == 0
        assert worker.gap < LONGEST


def test_remote_control_survives_the_loss_of_its_own_connection(tmp_path: Path) -> None:
    with (
        working(tmp_path, "-P", "gevent", "-c", "2", "--without-gossip") as worker,
        worker.app() as app,
    ):
        wait_for(lambda: app.control.ping(timeout=2.0), "an answer")
        killed = worker.server.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert killed == 1  # without gossip, only remote control subscribes to anything
        wait_for(lambda: app.control.ping(timeout=2.0), "an answer on the next connection")
        assert worker.log.count("remote control: connection to broker lost") == 1
        assert (
            worker.log.count("mingle: all alone") == 1
        )  # the consumer has kept its own connection
        assert worker.exit()[0] == 0
        assert "Traceback" not in worker.log


@pytest.mark.parametrize("pool", ["gevent", pytest.param("threads", marks=pytest.mark.long)])
def test_a_time_limit_of_another_task_is_an_error_like_any_other(tmp_path: Path, pool: str) -> None:
    with working(tmp_path, "-P", pool, "-c", "2") as worker:
        worker.send(1, 0, task="asks_another")
        wait_for(lambda: worker.times("failed") == {0: 1}, "the task fails")
        wait_for(lambda: worker.unacked == 0, "nothing unacked")
        assert worker.exit()[0] == 0


@pytest.mark.long
def test_tasks_that_are_acknowledged_early_run_once_as_well(tmp_path: Path) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "2", conf={"worker_prefetch_multiplier": 8}) as w:
        numbers = w.send(10, 1.0, task="early")
        w.done([0], "start")
        for _ in range(2):
            cut(w)
        settled(w, numbers)


def test_a_drain_continues_if_a_process_ended_before_the_broker_was_back(tmp_path: Path) -> None:
    """Processes that run one task each are not replaced in a drain, and the pool still lists them."""
    options = ("-P", "prefork", "-c", "2", "--max-tasks-per-child", "1")
    with working(tmp_path, *options) as worker:
        assert worker.process is not None
        worker.send(1, 6)
        long = worker.send(1, 20, first=1)
        worker.done([0, 1], "start")
        worker.server.kill()
        worker.process.send_signal(signal.SIGTERM)
        worker.done([0])
        time.sleep(3)
        worker.server.start()
        worker.done(long)
        assert worker.process.wait(60) == 0
        assert worker.times("start") == {0: 1, 1: 1}
        assert "CRITICAL" not in worker.log


def test_tasks_that_had_not_begun_come_back_in_order(tmp_path: Path) -> None:
    with working(
        tmp_path, "-P", "prefork", "-c", "1", conf={"worker_prefetch_multiplier": 16}
    ) as w:
        numbers = w.send(8, 0.5)
        w.done([0], "start")
        # One that is on its way as the connection is cut comes back later.
        wait_for(lambda: not w.server.client.llen("mail"), "all are fetched")
        cut(w)
        settled(w, numbers)
        started = [int(line.split()[1]) for line in w.ledger if line.startswith("start")]
        assert started == numbers


@pytest.mark.parametrize("pool", ["prefork", pytest.param("gevent", marks=pytest.mark.long)])
def test_a_task_with_an_eta_comes_back_at_once_and_runs_once(tmp_path: Path, pool: str) -> None:
    with working(tmp_path, "-P", pool, "-c", "1") as worker:
        with worker.app() as app:
            app.send_task("shop.work", (0,), countdown=20)
        wait_for(lambda: "] received" in worker.log, "it waits for its time")
        cut(worker)
        assert "0 tasks go on, 1 that had not begun go back to their queues" in worker.log
        settled(worker, [0])
        time.sleep(2)  # the greenlet of the lost connection would run it as well
        settled(worker, [0])


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_a_killed_redis_that_comes_back_loses_nothing(tmp_path: Path, pool: str) -> None:
    with working(tmp_path, "-P", pool, "-c", "2") as worker:
        numbers = worker.send(5, 0, task="held")
        worker.done([0, 1], "start")
        worker.server.kill()
        wait_for(lambda: "had not begun go back" in worker.log, "given up")
        worker.go()
        # They end while there is no broker, so their acknowledgements have to wait.
        worker.done([0, 1])
        pending = worker.directory / "run/pending"
        wait_for(lambda: pending.exists() and len(pending.read_text().split()) == 2, "two kept")
        worker.server.start()
        settled(worker, numbers)
        assert pending.read_text() == ""
        assert worker.process is not None
        assert worker.process.poll() is None
        assert worker.gap < LONGEST


def test_a_redis_that_hangs_delays_neither_time_limits_nor_results(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = Server(tmp_path / "redis")
        stack.callback(server.end)
        worker = Worker(
            tmp_path,
            server,
            *("-P", "prefork", "-c", "3", "-E"),
            conf={
                "result_backend": f"redis://127.0.0.1:{server.port}/1",
                "redis_socket_timeout": 10,
                "redis_socket_connect_timeout": 3,
                "result_backend_always_retry": True,
            },
        )
        stack.callback(worker.stop)
        worker.start()
        worker.ready()
        limited = worker.send(1, 0, first=100, task="limited")
        numbers = worker.send(6, 2.0)
        worker.done([*limited, 0, 1], "start")
        began = time.monotonic()
        server.signal(signal.SIGSTOP)
        worker.done(limited, "failed")
        assert time.monotonic() - began < 30  # its limit is 3 s; it would sleep for 600
        wait_for(lambda: "connection to broker lost" in worker.log, "given up")
        server.signal(signal.SIGCONT)
        worker.done(numbers)
        wait_for(lambda: worker.unacked == 0, "nothing unacked")
        assert worker.times("start") == dict.fromkeys([*limited, *numbers], 1)
        results = redis.Redis(port=server.port, db=1)

        def states() -> list[str]:
            found = results.keys("celery-task-meta-*")
            return sorted(json.loads(results.get(key) or "{}")["status"] for key in found)

        wait_for(lambda: states() == ["FAILURE", *["SUCCESS"] * 6], "all results")
        assert worker.gap < LONGEST


def test_sigterm_while_redis_hangs_ends_an_idle_worker_at_once(tmp_path: Path) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "2") as worker:
        worker.server.signal(signal.SIGSTOP)
        wait_for(lambda: "connection to broker lost" in worker.log, "given up")
        status, seconds = worker.exit()
        assert status == 0
        assert seconds < 30  # 2 s here; stock waits for the broker


@pytest.mark.long
def test_sigterm_before_a_hang_is_noticed_ends_a_worker(tmp_path: Path) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "2") as worker:
        worker.server.signal(signal.SIGSTOP)
        status, seconds = worker.exit()
        assert status == 0
        assert seconds < 45


def test_tasks_that_ended_without_a_broker_are_acknowledged_by_the_next_start(
    tmp_path: Path,
) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "2") as worker:
        numbers = worker.send(2, 0, task="held")
        worker.done(numbers, "start")
        worker.server.signal(signal.SIGSTOP)
        wait_for(lambda: "connection to broker lost" in worker.log, "given up")
        worker.go()
        status, _ = worker.exit()
        assert status == 0
        worker.done(numbers)
        assert len((tmp_path / "run/pending").read_text().split()) == 2
        assert "and the next start sends them" in worker.log
        worker.server.signal(signal.SIGCONT)
        worker.start()
        settled(worker, numbers)


def test_a_worker_waits_if_its_first_connection_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = Server(tmp_path / "redis")
        stack.callback(server.end)
        worker = Worker(tmp_path, server, "-P", "prefork", "-c", "2")
        stack.callback(worker.stop)
        server.kill()
        worker.start()
        wait_for(lambda: "the broker does not answer" in worker.log, "told")
        server.start()
        worker.ready()
        settled(worker, worker.send(3, 0))
        server.kill()
        status, seconds = worker.exit()
        assert status == 0
        assert seconds < 30


def test_late_replies_lose_and_double_nothing(tmp_path: Path) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "2", proxied=True) as worker:
        first = worker.send(4, 0.1)
        worker.done(first)
        assert worker.proxy is not None
        worker.proxy.delay = 6.0
        late = worker.send(6, 0.1, first=10)
        wait_for(lambda: "connection to broker lost" in worker.log, "given up")
        worker.proxy.delay = 0.0
        settled(worker, [*first, *late])


def test_the_lease_puts_back_a_message_whose_fetch_lost_its_reply(tmp_path: Path) -> None:
    """Otherwise it would wait for the visibility timeout, because no worker knows it."""
    with working(tmp_path, "-P", "prefork", "-c", "2", proxied=True) as worker:
        assert worker.proxy is not None
        worker.proxy.cut_at = b"shop.work"
        numbers = worker.send(1, 0)
        settled(worker, numbers)
        assert worker.proxy.cut_at is None
        said = "put back 1 messages, since the replies with them came too late"
        wait_for(lambda: said in worker.log, "it says so")


@pytest.mark.long
def test_the_next_broker_of_the_list_is_used(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = Server(tmp_path / "first")
        stack.callback(first.end)
        server = Server(tmp_path / "second")
        stack.callback(server.end)
        urls = ";".join(f"redis://127.0.0.1:{one.port}/0" for one in (first, server))
        worker = Worker(tmp_path, server, "-P", "prefork", "-c", "2", conf={"broker_url": urls})
        stack.callback(worker.stop)
        first.signal(signal.SIGSTOP)
        worker.start()
        worker.ready()
        settled(worker, worker.send(3, 0))


@pytest.mark.parametrize(
    "pool", ["prefork", "spawn", pytest.param("threads", marks=pytest.mark.long)]
)
def test_a_result_store_that_hangs_does_not_keep_a_worker_from_ending(
    tmp_path: Path, pool: str
) -> None:
    with ExitStack() as stack:
        server, store = Server(tmp_path / "redis"), Server(tmp_path / "results")
        stack.callback(server.end)
        stack.callback(store.end)
        conf: dict[str, Any] = {
            "result_backend": f"redis://127.0.0.1:{store.port}/0",
            "redis_socket_timeout": 2,
            "result_backend_always_retry": True,
            "result_backend_max_retries": 100,
        }
        worker = Worker(tmp_path, server, *outage.pool(pool), "-c", "2", conf=conf)
        stack.callback(worker.stop)
        worker.start()
        worker.ready()
        numbers = worker.send(2, 0, task="held")
        worker.done(numbers, "start")
        store.signal(signal.SIGSTOP)
        worker.go()
        worker.done(numbers)
        status, _ = worker.exit()  # 26 s here; stock never
        assert status == 0
        assert worker.log.count("is not stored, because the worker ends") == 2
        assert worker.unacked == 0


def test_a_lost_child_is_noticed_while_the_result_store_hangs(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, store = Server(tmp_path / "redis"), Server(tmp_path / "results")
        stack.callback(server.end)
        stack.callback(store.end)
        conf = {"result_backend": f"redis://127.0.0.1:{store.port}/0", "redis_socket_timeout": 10}
        worker = Worker(tmp_path, server, "-P", "prefork", "-c", "1", conf=conf)
        stack.callback(worker.stop)
        worker.start()
        worker.ready()
        worker.done(worker.send(1, 600.0), "start")
        store.signal(signal.SIGSTOP)
        assert worker.process is not None
        found = subprocess.run(
            ["pgrep", "-P", str(worker.process.pid)], capture_output=True, text=True, check=True
        )
        for child in found.stdout.split():
            os.kill(int(child), signal.SIGKILL)
        wait_for(lambda: "exited prematurely" in worker.log, "the loss")
        worker.done(worker.send(1, 0, first=5), "start")
        store.signal(signal.SIGCONT)
        results = redis.Redis(port=store.port)

        def stored() -> set[str]:
            keys = results.keys("celery-task-meta-*")
            return {json.loads(results.get(key) or "{}")["status"] for key in keys}

        wait_for(lambda: stored() == {"FAILURE", "SUCCESS"}, "both results")
        assert worker.gap < LONGEST


def test_a_task_whose_child_dies_without_a_broker_runs_again(tmp_path: Path) -> None:
    """Its retry can't be sent: Celery would acknowledge the message and call the task failed."""
    options = {**DELIVERY, "dead_letters": True}
    conf = {"task_retry_on_worker_lost": True}
    with working(tmp_path, "-P", "prefork", "-c", "1", delivery=options, conf=conf) as worker:
        numbers = worker.send(1, 600.0)
        worker.done(numbers, "start")
        worker.server.signal(signal.SIGSTOP)
        wait_for(lambda: "connection to broker lost" in worker.log, "given up")
        assert worker.process is not None
        found = subprocess.run(
            ["pgrep", "-P", str(worker.process.pid)], capture_output=True, text=True, check=True
        )
        for child in found.stdout.split():
            os.kill(int(child), signal.SIGKILL)
        wait_for(lambda: "exited prematurely" in worker.log, "the loss")
        worker.server.signal(signal.SIGCONT)
        wait_for(lambda: worker.times("start")[0] == 2, "it runs again")
        assert worker.times("failed") == {}
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()


#: A queue of the application without acknowledgement, which is fetched as in stock kombu.
LOOSE = """

@signals.celeryd_after_setup.connect
def loose(**_):
    app.amqp.queues.select_add("loose", no_ack=True)
"""


def test_with_the_stock_fetch_tasks_that_had_not_begun_come_back_as_well(tmp_path: Path) -> None:
    conf = {"worker_prefetch_multiplier": 16}
    with working(tmp_path, "-P", "prefork", "-c", "1", conf=conf, shop=SHOP + LOOSE) as worker:
        numbers = worker.send(8, 0, task="held")
        worker.done([0], "start")
        # Stock kombu takes a message from its queue and then notes it as unacked. A message
        # between the two when its connection is cut is lost.
        wait_for(lambda: worker.unacked == 8, "all are taken and noted")
        tags = worker.server.client.hkeys("unacked")
        assert [owner_of(tag.decode()) for tag in tags] == [None] * 8
        cut(worker)
        worker.go()
        worker.done(numbers)
        wait_for(lambda: worker.unacked == 0, "nothing unacked")
        assert worker.times("start") == dict.fromkeys(numbers, 1)
        started = [int(line.split()[1]) for line in worker.ledger if line.startswith("start")]
        assert started == numbers


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_messages_that_a_task_consumes_do_not_count_as_the_workers(
    tmp_path: Path, pool: str
) -> None:
    with working(tmp_path, "-P", pool, "-c", "2") as worker:
        with worker.app() as app, app.connection_for_write() as connection:
            for _ in range(2):
                connection.SimpleQueue("aside").put("it")
        numbers = worker.send(2, 0, task="consumes")
        worker.done(numbers, "start")
        owners = [owner_of(tag.decode()) for tag in worker.server.client.hkeys("unacked")]
        assert owners.count(None) == 2
        assert len(owners) == 4
        worker.go()
        worker.done(numbers)
        # It has not acknowledged what it fetched.
        wait_for(lambda: worker.server.client.llen("aside") == 2, "it is back")
        wait_for(lambda: worker.unacked == 0, "nothing unacked")


#: A consumer of the application on the worker's connection. It starts after the fleet's own step, and acknowledges
#: nothing.
STEP = (
    SHOP
    + """
from celery import bootsteps
from kombu import Consumer, Queue


@signals.celeryd_init.connect
def add_step(**_):
    class Keeps(bootsteps.ConsumerStep):
        requires = tuple(one for one in app.steps["consumer"] if one.name == "celery_fleet.Ours")

        def get_consumers(self, channel):
            return [Consumer(channel, [Queue("own")], on_message=self.keep)]

        def keep(self, message):
            write("ledger", f"kept {message.payload}")

    app.steps["consumer"].add(Keeps)
"""
)


def test_messages_of_the_applications_own_consumer_stay_with_it(tmp_path: Path) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "1", shop=STEP) as worker:
        with worker.app() as app, app.connection_for_write() as connection:
            connection.SimpleQueue("own").put(7)
        numbers = worker.send(1, 25.0)
        worker.done(numbers, "start")
        wait_for(lambda: worker.times("kept"), "it is fetched")
        owners = [owner_of(tag.decode()) for tag in worker.server.client.hkeys("unacked")]
        assert owners.count(None) == 1
        assert len(owners) == 2
        # The lease puts back what it does not know after some 20 s.
        worker.done(numbers)
        assert worker.times("kept") == {7: 1}
        assert "put back" not in worker.log
        wait_for(lambda: worker.unacked == 1, "the task is acknowledged")
        assert worker.exit()[0] == 0
        assert worker.unacked == 0
        assert worker.server.client.llen("own") == 1


def test_without_carry_and_outage_guard_there_is_no_file_of_pending_acknowledgements(
    tmp_path: Path,
) -> None:
    stock = {**DELIVERY, "carry": False, "outage": False}
    with working(tmp_path, "-P", "prefork", "-c", "1", delivery=stock) as worker:
        settled(worker, worker.send(2, 0))
        assert not (tmp_path / "run/pending").exists()


@pytest.mark.parametrize("alone", [pytest.param("carry", marks=pytest.mark.long), "outage"])
def test_carry_and_outage_guard_work_without_each_other(tmp_path: Path, alone: str) -> None:
    options = {**DELIVERY, "carry": False, "outage": False, alone: True}
    with working(tmp_path, "-P", "prefork", "-c", "2", delivery=options) as worker:
        numbers = worker.send(4, 0.5)
        worker.done(numbers)
        # Without carry, a task that is not acknowledged runs again.
        wait_for(lambda: worker.unacked == 0, "nothing unacked")
        cut(worker)
        numbers += worker.send(4, 0, first=10)
        settled(worker, numbers)


#: What the outage guard does without carry: kombu puts the messages of running tasks back, so they run twice.
UNCARRIED = {**DELIVERY, "carry": False}


@pytest.mark.long
def test_without_carry_time_limits_outlast_a_lost_connection(tmp_path: Path) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "2", delivery=UNCARRIED) as worker:
        (number,) = worker.send(1, 0, task="limited", time_limit=15)
        worker.done([number], "start")
        cut(worker)
        # It would sleep for 600 s.
        wait_for(lambda: worker.times("failed")[number] == 2, "both are stopped")
        assert worker.times("start")[number] == 2


def test_without_carry_time_limits_hold_while_the_broker_is_away(tmp_path: Path) -> None:
    with working(tmp_path, "-P", "prefork", "-c", "2", delivery=UNCARRIED) as worker:
        limited = worker.send(1, 0, task="limited", time_limit=15)
        worker.done(limited, "start")
        worker.server.kill()
        worker.done(limited, "failed")
        assert "Frequent restarts" not in worker.log
        worker.server.start()
        worker.done(worker.send(2, 0, first=1))
        assert worker.gap < LONGEST


#: Its process pauses between the length of a result and the result, as it may on a busy machine.
PAUSES = (
    SHOP
    + """
from billiard.connection import Connection

send = Connection._send


def paused(self, part, *args):
    send(self, part, *args)
    if len(part) == 4 and not os.path.exists(os.path.join(os.environ["LEDGER"], "half")):
        write("half", "sent")
        time.sleep(1)


Connection._send = paused


@app.task
def fails(number):
    write("ledger", f"start {number}")
    raise ValueError("no such row")
"""
)


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--max-tasks-per-child", "1"), marks=pytest.mark.long)]
)
def test_a_result_arrives_although_the_connection_is_lost_in_the_middle_of_it(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with working(tmp_path, "-c", "1", *options, shop=PAUSES) as worker:
        with worker.app() as app:
            app.send_task("shop.fails", (0,))
        wait_for((worker.directory / "half").exists, "a part of the result")
        time.sleep(0.3)  # so that the worker has read it
        cut(worker)
        wait_for(lambda: worker.unacked == 0, "it is acknowledged")
        assert worker.times("start") == {0: 1}
        assert "WorkerLostError" not in worker.log
        assert worker.exit()[0] == 0
