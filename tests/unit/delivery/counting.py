"""Tasks that end in every way, and what a worker must have counted of them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery

from celery_fleet.delivery.keys import SENT
from celery_fleet.worker.task_counts import BOUNDS
from tests.fleet import PASSWORDS
from tests.unit.delivery.workers import SHOP, Workers

DELIVERY = {
    "profile": "at_least_once",
    "fetch": "atomic",
    **dict.fromkeys(("lease", "hand_back", "carry", "outage", "dead_letters"), True),
}

MORE = """
from celery.exceptions import Ignore, Reject

class Odd(Exception):
    "It can't be pickled."
    def __init__(self, one, two):
        super().__init__(one)

@app.task
def fail(name, how):
    note("begin", name)
    if how == "odd":
        raise Odd(1, 2)
    if how == "reject":
        raise Reject("not wanted")
    if how == "ignore":
        raise Ignore
    raise ValueError("no such row in postgresql://me:hunter2@db/shop")

@app.task(bind=True)
def again(self, name):
    note("begin", name)
    if not self.request.retries:
        raise self.retry(countdown=0)

@app.task(time_limit=1)
def endless(name):
    note("begin", name)
    time.sleep(3600)

@app.task
def terminated(name):
    note("begin", name)
    time.sleep(3600)
"""


def run_everything(workers: Workers, *options: str) -> dict[str, Any]:
    """Have a worker run each of the tasks, and stop it; return what it has counted."""
    (workers.directory / "shop.py").write_text(SHOP + MORE)
    workers.start("w", *options, delivery=DELIVERY)
    sent = time.time() - 100
    workers.send("work", "late", headers={SENT: sent})
    workers.send("work", "future", headers={SENT: time.time() + 1000})
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    workers.send("work", "eta", headers={SENT: sent}, eta=due)
    workers.send("work", "silent")
    workers.send("work", "expired", expires=datetime.now(UTC) - timedelta(seconds=60))
    workers.send("work", "shadowed", shadow="something else")
    for how in ("error", "odd", "reject", "ignore"):
        workers.send("fail", how, how)
    workers.send("again", "again", headers={SENT: sent})
    names = {"late", "future", "eta", "silent", "shadowed"}
    begun = {"error", "odd", "reject", "ignore", *names}
    if "prefork" in options:
        workers.send("endless", "endless")
        workers.send("terminated", "terminated", task_id="terminated")
        begun |= {"terminated"}
    workers.until(lambda: set(workers.ledger.count("end")) >= names, "all tasks have ended")
    workers.until(lambda: workers.ledger.count("begin")["again"] == 2, "it was retried")
    workers.until(lambda: set(workers.ledger.count("begin")) >= begun, "all tasks have begun")
    if "prefork" in options:
        url = f"redis://operator:{PASSWORDS['operator']}@127.0.0.1:{workers.store.port}/0"
        app = Celery("shop", broker=url, set_as_current=False)
        app.control.revoke("terminated", terminate=True, signal="SIGKILL")
    workers.until(lambda: not workers.tags(), "all is acknowledged")
    assert workers.metrics("w")["slots"] == (1 if "solo" in options else 4)
    workers.stop("w")
    return workers.metrics("w")


def check(found: dict[str, Any], *, prefork: bool) -> None:
    """Compare what a worker has counted with what its tasks did."""
    assert (found["format"], found["counts_tasks"]) == (1, True)
    assert (found["node"], found["worker"], found["drains"]) == ("w@test", "w", 1)
    assert [found[name] for name in ("slots", "active", "prefetched", "eta")] == [0, 0, 0, 0]
    assert (found["queues"], found["overrun"]) == ([], 0)
    tasks = {one.pop("name"): one for one in found["tasks"]}
    runtimes = {name: one.pop("runtime") for name, one in tasks.items()}
    expected = {
        "shop.work": counted(received=6, started=5, succeeded=5, revoked=1),
        "shop.fail": counted(received=4, started=4, rejected=1, failed={"ValueError": 1, "Odd": 1}),
        "shop.again": counted(received=2, started=2, succeeded=1, retried=1),
    }
    if prefork:
        expected["shop.endless"] = counted(received=1, started=1, failed={"TimeLimitExceeded": 1})
        expected["shop.terminated"] = counted(received=1, started=1, revoked=1)
    assert tasks == expected
    assert {name: sum(one["buckets"]) for name, one in runtimes.items()} == {
        name: one["succeeded"] for name, one in expected.items()
    }
    [waits] = found["waits"]
    assert waits["queue"] == "mail"
    buckets = waits["buckets"]
    assert len(buckets) == len(BOUNDS) + 1
    started = sum(one["started"] for one in tasks.values())
    # Of the messages with a header, the worker only sent the retry; two tasks were sent 100 s before they began.
    assert sum(buckets) == 5
    assert waits["unknown"] == started - 5
    assert buckets[BOUNDS.index(120)] == 2
    assert 200 <= waits["sum"] < 300


def writing_every(workers: Workers, seconds: float) -> dict[str, str]:
    """Return the environment of a worker that writes its file more often."""
    (workers.directory / "sitecustomize.py").write_text(
        f"import celery_fleet.worker.metrics as metrics\nmetrics.INTERVAL = {seconds}\n"
    )
    return {"PYTHONPATH": str(workers.directory)}


def hold(workers: Workers) -> None:
    """Have a worker hold tasks, and compare its file with them."""
    options = ("-P", "threads", "-c", "1", "--prefetch-multiplier", "3", "--time-limit", "1")
    workers.start("w", *options, **writing_every(workers, 0.2))
    workers.send("wait", "first")
    workers.until(lambda: workers.ledger.count("begin")["first"], "it runs")
    workers.send("work", "second")
    workers.send("work", "later", countdown=600)

    def held() -> list[int]:
        return [workers.metrics("w")[name] for name in ("active", "prefetched", "eta")]

    workers.until(lambda: held() == [1, 1, 1], "all are in the file")
    found = workers.metrics("w")
    assert found["queues"] == ["mail"]
    # Threads don't enforce it.
    workers.until(lambda: workers.metrics("w")["overrun"] > 0, "it exceeds its time limit")
    workers.go("w")
    workers.until(lambda: held() == [0, 0, 1], "only the task with an ETA is left")
    assert workers.metrics("w")["overrun"] == 0


def counted(**given: Any) -> dict[str, Any]:
    names = ("received", "started", "succeeded", "retried", "revoked", "rejected")
    return {"queue": "mail", **dict.fromkeys(names, 0), "failed": {}, **given}
