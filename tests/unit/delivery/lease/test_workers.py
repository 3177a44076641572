"""Lease and sweep of real workers; the visibility timeout is a few seconds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_fleet.delivery.messages import owner_of
from tests.unit.delivery.workers import ATOMIC, STOCK, Workers, working

pytestmark = pytest.mark.long

LEASE = 5.0


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with working(tmp_path) as made:
        yield made
        refused = [(one["object"], one["context"]) for one in made.store.refused()]
        assert refused == []


def holders(workers: Workers) -> set[str]:
    owners = (owner_of(tag) for tag in workers.tags())
    return {owner.node.split("@")[0] for owner in owners if owner is not None}


def all_ended(workers: Workers, names: set[str]) -> None:
    workers.until(lambda: set(workers.ledger.count("end")) >= names, "all tasks have ended")
    workers.until(lambda: not workers.tags(), "all is acknowledged")


def test_long_tasks_and_distant_etas_run_once_in_all_pools(workers: Workers) -> None:
    workers.start("fork", "-c", "1", visibility=LEASE)
    workers.start("threads", "-P", "threads", "-c", "1", visibility=LEASE)
    workers.start("solo", "-P", "solo", visibility=LEASE)
    names = {f"long-{number}" for number in range(4)} | {f"eta-{number}" for number in range(4)}
    for name in sorted(names):
        if name.startswith("eta"):
            workers.send("work", name, countdown=15)
        else:
            workers.send("work", name, 12)

    all_ended(workers, names)
    assert workers.ledger.count("begin") == dict.fromkeys(names, 1)
    used = {node for _, _, node in workers.ledger.lines()}
    assert used == {"fork", "threads", "solo"}
    for node in used:
        assert "put back" not in workers.log(node)


def test_a_killed_workers_tasks_are_back_after_its_lease(workers: Workers) -> None:
    workers.start("dies", "-P", "threads", "-c", "1", visibility=LEASE)
    workers.send("wait", "task")
    workers.until(lambda: workers.ledger.node("begin", "task"), "the task runs")
    time.sleep(LEASE)  # its lease is renewed meanwhile
    workers.start("lives", "-P", "threads", "-c", "1", visibility=LEASE)
    assert holders(workers) == {"dies"}
    workers.go("lives")
    killed = time.monotonic()
    workers.kill("dies")
    workers.until(lambda: workers.ledger.node("end", "task"), "the other one has run it")

    took = time.monotonic() - killed
    assert took > LEASE / 2, "it was taken from a worker whose lease was not over"
    assert took < LEASE + 10
    assert workers.ledger.node("begin", "task") == ["dies", "lives"]
    said = "put back 1 messages, since no lease covers them any more: 1 of dies@test"
    workers.until(lambda: said in workers.log("lives"), "it has said so")


def test_a_worker_that_was_cut_off_beyond_its_lease_touches_no_later_delivery(
    workers: Workers,
) -> None:
    workers.start("cut", "-P", "threads", "-c", "1", visibility=LEASE)
    workers.send("wait", "task")
    workers.until(lambda: workers.ledger.node("begin", "task"), "the task runs")
    process = workers.running["cut"]
    workers.start("other", "-P", "threads", "-c", "1", visibility=LEASE)
    os.kill(process.pid, signal.SIGSTOP)
    workers.until(
        lambda: workers.ledger.node("begin", "task") == ["cut", "other"], "another took it over"
    )
    os.kill(process.pid, signal.SIGCONT)
    workers.until(
        lambda: "was not renewed for" in workers.log("cut"), "it knows that it was cut off"
    )
    workers.go("cut")
    workers.until(lambda: "was no longer held" in workers.log("cut"), "its acknowledgement is late")

    assert holders(workers) == {"other"}, "it acknowledged the later delivery"
    workers.go("other")
    all_ended(workers, {"task"})
    assert workers.ledger.count("begin") == {"task": 2}
    # No other delivery follows.
    workers.send("work", "next")
    all_ended(workers, {"task", "next"})
    assert workers.ledger.count("begin") == {"task": 2, "next": 1}


def test_an_idle_worker_takes_nothing_after_redis_refused_writes(workers: Workers) -> None:
    workers.start("holds", "-P", "threads", "-c", "1", visibility=LEASE)
    workers.send("wait", "task")
    workers.until(lambda: workers.ledger.node("begin", "task"), "the task runs")
    for number in range(3):
        workers.start(f"idle-{number}", "-P", "threads", "-c", "1", visibility=LEASE)
    time.sleep(12)  # all of them sweep
    for _ in range(5):
        # A little longer than the lease: no sweep fails, but the first one afterwards may find it expired.
        workers.store.admin.config_set("min-replicas-to-write", 1)
        time.sleep(LEASE + 0.2)
        workers.store.admin.config_set("min-replicas-to-write", 0)
        time.sleep(2 * LEASE)
    workers.go("holds")

    all_ended(workers, {"task"})
    assert workers.ledger.count("begin") == {"task": 1}


def test_wrong_clocks_do_no_harm(workers: Workers) -> None:
    workers.start("right", "-c", "1", visibility=LEASE)
    workers.start("fast", "-c", "1", visibility=LEASE, clock=60)
    workers.start("slow", "-c", "1", visibility=LEASE, clock=-60)
    names = {f"task-{number}" for number in range(5)}
    for name in sorted(names):
        workers.send("work", name, 12)
    all_ended(workers, names)

    assert workers.ledger.count("begin") == dict.fromkeys(names, 1)
    assert {node for _, _, node in workers.ledger.lines()} == {"right", "fast", "slow"}


@pytest.mark.parametrize("first", ["stock", "atomic"])
def test_a_fleet_changes_its_way_of_fetching_under_load(workers: Workers, first: str) -> None:
    old, new = (STOCK, ATOMIC) if first == "stock" else (ATOMIC, STOCK)
    names = {f"task-{number}" for number in range(60)}
    for one in ("old-1", "old-2"):
        workers.start(one, "-c", "2", delivery=old, visibility=15)
    for name in sorted(names):
        workers.send("work", name, 0.3)
    for number in (1, 2):
        workers.start(f"new-{number}", "-c", "2", delivery=new, visibility=15)
        workers.stop(f"old-{number}")

    all_ended(workers, names)
    assert workers.ledger.count("begin") == dict.fromkeys(names, 1)


@pytest.mark.parametrize("dying", ["stock", "atomic"])
def test_stock_and_atomic_workers_take_over_each_others_messages(
    workers: Workers, dying: str
) -> None:
    dies, lives = (STOCK, ATOMIC) if dying == "stock" else (ATOMIC, STOCK)
    if lives is ATOMIC:
        lives = {**ATOMIC, "stock_visibility": 8.0}
    workers.start("dies", "-P", "threads", "-c", "1", delivery=dies, visibility=LEASE)
    workers.send("wait", "task")
    workers.until(lambda: workers.ledger.node("begin", "task"), "the task runs")
    workers.kill("dies")
    workers.start("lives", "-P", "threads", "-c", "1", delivery=lives, visibility=LEASE)
    workers.go("lives")
    all_ended(workers, {"task"})
    assert workers.ledger.node("begin", "task") == ["dies", "lives"]


def test_a_long_task_of_a_stock_worker_is_not_taken_away(workers: Workers) -> None:
    workers.start("stock", "-c", "1", delivery=STOCK, visibility=60)
    workers.send("work", "long", 12)
    workers.until(lambda: workers.ledger.node("begin", "long"), "it runs")
    workers.start("atomic", "-c", "1", visibility=LEASE)
    workers.send("work", "short")
    all_ended(workers, {"long", "short"})
    assert workers.ledger.count("begin") == {"long": 1, "short": 1}


def test_a_longer_timeout_can_be_rolled_out(workers: Workers) -> None:
    """This happens if some hosts change to the stock fetch: each worker sweeps by its own timeout, and must not steal.

    The timeouts are those of the scenario `delivery`, and the shortest that preflight accepts.
    """
    workers.start("before", "-c", "1", visibility=15)
    workers.start("after", "-c", "1", visibility=120)
    workers.start("stock", "-c", "1", delivery=STOCK, visibility=120)
    names = {f"long-{number}" for number in range(3)}
    for name in sorted(names):
        workers.send("work", name, 30)
    all_ended(workers, names)

    assert {node for _, _, node in workers.ledger.lines()} == {"before", "after", "stock"}
    assert workers.ledger.count("begin") == dict.fromkeys(names, 1)
