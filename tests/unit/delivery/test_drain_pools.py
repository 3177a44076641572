"""A drain of a real worker of each pool, under a small load of every kind of task."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.unit.delivery.pools import ATOMIC, NOTHING, POOLS, SLOTS, Shop, Worker, shop, until

pytestmark = pytest.mark.long

#: kombu's own transport with early acknowledgement, and the atomic fetch with late acknowledgement.
WAYS: list[tuple[dict[str, Any] | None, str]] = [(None, "no"), (ATOMIC, "yes")]
#: Pools whose event loop continues while a task runs.
FREE = [pool for pool in POOLS if pool != "solo"]


@contextmanager
def control(made: Shop) -> Iterator[Any]:
    """Remote control as the operator."""
    app = Celery("operator", set_as_current=False)
    app.conf.update(made.fleet.settings("operator")["celery"])
    yield app.control
    app.close()


def ask(made: Shop, command: str, **arguments: Any) -> dict[str, Any]:
    with control(made) as operator:
        (answer,) = operator.broadcast(
            command, arguments=arguments, reply=True, timeout=20, limit=1
        )
    return dict(answer["w@test"])


def busy(made: Shop, pool: str) -> bool:
    return len(made.ledger.begun) - len(made.ledger.ended) == (1 if pool == "solo" else SLOTS)


@pytest.mark.parametrize(("delivery", "late"), WAYS, ids=["stock", "atomic"])
@pytest.mark.parametrize("pool", POOLS)
def test_waiting_tasks_go_back_and_running_ones_end(
    tmp_path: Path, pool: str, delivery: dict[str, Any] | None, late: str
) -> None:
    with shop(tmp_path, delivery) as made:
        worker = made.worker(pool, SHOP_LATE=late)
        sent = made.load(1.0)
        until(lambda: busy(made, pool) and len(made.unacked()) > SLOTS - (pool == "solo"))

        worker.terminate()
        until(lambda: worker.record)
        running = made.ledger.begun.keys() - made.ledger.ended.keys()
        # A message that kombu's last poll fetches comes within a second and goes straight back.
        # It may be the only one, and then the record counts it a second later.
        until(lambda: made.unacked() <= running and worker.record["handed_back"] > 0)

        assert worker.wait() == 0, worker.log
        assert made.account(sent) == NOTHING, worker.log
        assert made.unacked() == set()
        assert worker.record["ended"]
        assert "Traceback" not in worker.log, worker.log
        assert made.fleet.refused() == []


@pytest.mark.parametrize("pool", POOLS)
def test_sighup_drains_a_worker_and_ends_it(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker(pool, SHOP_LATE="yes")
        sent = made.load(1.0, number=6)
        until(lambda: busy(made, pool))

        worker.process.send_signal(signal.SIGHUP)

        assert worker.wait() == 0, worker.log
        assert made.account(sent) == NOTHING, worker.log
        assert made.unacked() == set()
        assert worker.record["ended"]
        assert (
            worker.log.count(" ready.") == 1
        )  # Celery itself starts another worker in this process


@pytest.mark.parametrize("pool", FREE)
def test_a_task_whose_time_comes_after_it_went_back_does_not_run(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker(pool, SHOP_LATE="yes")
        sent = [made.send("held"), made.send(countdown=15)]
        due = time.monotonic() + 15
        until(lambda: made.ledger.begun and len(made.unacked()) == 2)
        worker.terminate()
        until(lambda: made.queued().keys() == {sent[1]})
        time.sleep(max(0.0, due + 2 - time.monotonic()))
        made.go()
        assert worker.wait() == 0, worker.log
        assert made.ledger.begun.keys() == {sent[0]}
        assert made.account(sent) == NOTHING, worker.log


@pytest.mark.parametrize("pool", POOLS)
def test_an_idle_worker_drains_at_once(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker(pool)
        made.send()
        until(lambda: made.ledger.ended)
        time.sleep(0.2)  # armed: nothing more is sent
        worker.terminate()
        assert worker.wait() == 0, worker.log
        # kombu's own poll would have been under way for up to a second.
        assert worker.record["seconds"] < 0.6
        sent = [made.send() for _ in range(3)]
        assert made.queued().keys() == set(sent)


@pytest.mark.parametrize("pool", FREE)
def test_a_draining_worker_answers_and_fetches_nothing(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker(pool, SHOP_LATE="yes")
        first = [made.send("held") for _ in range(SLOTS)]
        until(lambda: busy(made, pool))
        worker.terminate()
        until(lambda: worker.record)
        later = [made.send() for _ in range(4)]

        assert ask(made, "ping") == {"ok": "pong"}
        assert made.queued().keys() == set(later)

        made.go()
        assert worker.wait() == 0, worker.log
        assert made.account(first + later) == NOTHING
        assert made.ledger.ended.keys() == set(first)


@pytest.mark.parametrize("pool", FREE)
def test_a_pause_hands_back_and_a_resume_fetches_again(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker(pool, SHOP_LATE="yes")
        sent = [made.send("held") for _ in range(SLOTS)]
        until(lambda: busy(made, pool))
        sent += [made.send(), made.send(countdown=60), made.send("limited"), made.send("limited")]
        # gevent's consumer waits for a slot with the first message that finds none.
        taken = SLOTS + 1 if pool == "gevent" else len(sent)
        until(lambda: len(made.unacked()) == taken)
        # Redis has them as unacked before the worker has read the reply.
        until(lambda: worker.log.count("] received") == taken)

        standing = ask(made, "fleet_pause", seconds=300)
        assert (standing["state"], standing["handed_back"]) == ("paused", taken - SLOTS)
        made.go()
        until(lambda: len(made.ledger.ended) == SLOTS)
        until(lambda: made.unacked() == set())
        assert made.queued().keys() == set(sent) - made.ledger.begun.keys()

        assert ask(made, "fleet_resume")["state"] == "consuming"
        until(lambda: len(made.ledger.ended) == len(sent) - 1)  # all except the one with an ETA
        assert made.account(sent)["doubled"] == []


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_lost_connection_makes_nothing_run_twice(tmp_path: Path, pool: str) -> None:
    """The reply to a fetch may be lost. Then only the lease brings its message back soon."""
    with shop(tmp_path, {**ATOMIC, "lease": True}) as made:
        worker = made.worker(pool, SHOP_LATE="yes")
        sent = [made.send(seconds=1.0) for _ in range(12)]
        until(lambda: busy(made, pool) and len(made.unacked()) > SLOTS)
        for kind in ("normal", "pubsub"):
            made.witness.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        until(lambda: len(made.ledger.ended) == len(sent))
        until(lambda: made.unacked() == set())
        assert made.account(sent) == NOTHING, worker.log


def drained_without(made: Shop, worker: Worker, first: bool, seconds: float) -> None:
    """Let the worker drain while its broker hangs, from before or after the signal."""
    broker = made.fleet.processes["broker"]
    if first:
        broker.send_signal(signal.SIGSTOP)
        # Wait until it has noticed the hang; a signal before that is the other case.
        until(lambda: "the connection is lost" in worker.log or made.ledger.begun)
        worker.terminate()
    else:
        worker.terminate()
        until(lambda: worker.record)
        broker.send_signal(signal.SIGSTOP)
    assert worker.wait(seconds + 90) == 0, worker.log
    broker.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("first", [True, False], ids=["hangs before", "hangs after"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_drain_ends_without_a_broker(tmp_path: Path, pool: str, first: bool) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker(pool, SHOP_LATE="yes")
        sent = [made.send(seconds=8.0) for _ in range(SLOTS)]
        until(lambda: busy(made, pool))
        drained_without(made, worker, first, 8.0 * SLOTS)
        begun = made.ledger.begun
        assert begun == made.ledger.ended
        assert worker.record["running"] == 0

        # The next start acknowledges tasks that have run, and fetches the others.
        again = made.worker(pool, again=True, SHOP_LATE="yes")
        until(lambda: len(made.ledger.ended) == len(sent))
        until(lambda: made.unacked() == set())
        assert made.account(sent) == NOTHING, worker.log + again.log


@pytest.mark.parametrize("pool", POOLS)
def test_an_idle_worker_ends_without_a_broker(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker(pool)
        drained_without(made, worker, first=True, seconds=0)
        assert "Traceback" not in worker.log, worker.log
