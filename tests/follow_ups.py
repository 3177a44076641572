"""Applications whose tasks send something at their end, while the Redis that they send to is away."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests import outage
from tests.outage import PATIENCE, QUEUE, Server, Worker, wait_for, working

SHOP = """
import os, time
from celery import Celery, chord

app = Celery("shop")


def write(text):
    with open(os.path.join(os.environ["LEDGER"], "ledger"), "a") as file:
        file.write(text + chr(10))


def wait_for_outage(number):
    write(f"start {number}")
    while not os.path.exists(os.path.join(os.environ["LEDGER"], "outage")):
        time.sleep(0.05)


@app.task(bind=True, max_retries=3)
def retries(self, number):
    if self.request.retries == 0:
        wait_for_outage(number)
        raise self.retry(countdown=0.1)
    write(f"end {number}")


@app.task(bind=True, autoretry_for=(ZeroDivisionError,), retry_backoff=False, default_retry_delay=0.1)
def autoretries(self, number):
    if self.request.retries == 0:
        wait_for_outage(number)
        1 / 0
    write(f"end {number}")


@app.task(bind=True, soft_time_limit=10)
def soft(self, number):
    if self.request.retries == 0:
        wait_for_outage(number)
        raise self.retry(countdown=0.1)
    write(f"end {number}")


@app.task(bind=True, time_limit=10)
def hard(self, number):
    if self.request.retries == 0:
        wait_for_outage(number)
        raise self.retry(countdown=0.1)
    write(f"end {number}")


@app.task(time_limit=10)
def member(number):
    if not os.path.exists(os.path.join(os.environ["LEDGER"], "outage")):
        wait_for_outage(number)
    return number


@app.task
def greedy(number):
    write(f"start {number}")
    raise MemoryError("no room")


@app.task
def first(number):
    wait_for_outage(number)


@app.task(bind=True)
def replaces(self, number):
    wait_for_outage(number)
    raise self.replace(ending.si(number))


@app.task(soft_time_limit=10)
def soft_first(number):
    wait_for_outage(number)


@app.task
def fails(number):
    wait_for_outage(number)
    1 / 0


@app.task
def passes():
    pass


@app.task(bind=True)
def replaces_by_chord(self, number):
    wait_for_outage(number)
    raise self.replace(chord([passes.si(), passes.si()], ending.si(number)))


@app.task
def sends(number):
    wait_for_outage(number)
    ending.delay(number)


@app.task
def warms(number):
    time.sleep(1)
    ending.delay(number)


@app.task
def ending(number):
    write(f"end {number}")
"""

DELIVERY = {**outage.DELIVERY, "dead_letters": True}

#: Each kind of follow-up, by the number of its task.
KINDS = ("retry", "autoretry", "link", "group", "chain", "chord", "replace", "send")
CHORD = KINDS.index("chord")


#: Sends a task of each kind in a separate process that ends, because a sender of chords listens to the result store.
SENDER = """
import sys
from celery import chain, chord, group
from shop import *

broker, results, what = sys.argv[1:]
app.conf.update(broker_url=broker, result_backend=results, task_default_queue="mail")
WAYS = {
    "retry": lambda n: retries.delay(n),
    "autoretry": lambda n: autoretries.delay(n),
    "link": lambda n: first.apply_async((n,), link=ending.si(n)),
    "group": lambda n: chain(first.si(n), group(ending.si(n))).apply_async(),
    "chain": lambda n: chain(first.si(n), ending.si(n)).apply_async(),
    "chord": lambda n: chord([first.si(n), first.si(n)])(ending.si(n)),
    "replace": lambda n: replaces.delay(n),
    "send": lambda n: sends.delay(n),
}
for number, way in enumerate(WAYS.values()):
    if what == "all":
        way(number)
if what == "late":
    chain(first.si(0), chord([passes.si(), passes.si()], ending.si(0))).apply_async()
    replaces_by_chord.delay(1)
    fails.apply_async((2,), link_error=ending.si(2))
    chain(soft_first.si(3), ending.si(3)).apply_async()
    chord([soft_first.si(4), first.si(4)], ending.si(4)).apply_async()
OTHERS = {"soft": soft, "hard": hard, "greedy": greedy, "ending": ending}
if what in OTHERS:
    OTHERS[what].delay(0)
if what == "soft chain":
    chain(soft_first.si(0), ending.si(0)).apply_async()
if what == "chord":
    chord([member.si(0)])(ending.si(0))
for number in range(40):
    if what == "many hard":
        hard.delay(number)
for number in range(100, 130):
    if what == "warm":
        warms.delay(number)
"""


def send(worker: Worker, results: Server, what: str) -> None:
    urls = [f"redis://127.0.0.1:{server.port}/0" for server in (worker.server, results)]
    subprocess.run([worker.python, "-c", SENDER, *urls, what], cwd=worker.directory, check=True)


def away(server: Server, fault: str, seconds: float, begun: Callable[[], object]) -> None:
    """Make a Redis unavailable for some seconds; ``begun`` is called once it is."""
    if fault == "frozen":
        server.signal(signal.SIGSTOP)
        begun()
        time.sleep(seconds)
        server.signal(signal.SIGCONT)
        return
    if fault == "full":
        server.client.config_set("maxmemory", 1)
        begun()
        time.sleep(seconds)
        server.client.config_set("maxmemory", 0)
        return
    commands = sum(file.read_bytes().count(b"*") for file in server.directory.rglob("*.aof"))
    server.kill()
    begun()
    if fault == "killed":
        time.sleep(seconds)
        server.start()
    else:
        # It answers at once that it is loading its data, and delays each key by this many microseconds.
        delay = int(seconds * 1e6 / commands)
        server.start(
            *("--key-load-delay", str(delay), "--loading-process-events-interval-bytes", "1024"),
            seconds=2 * seconds + PATIENCE,
        )


def survives(
    directory: Path,
    fault: str,
    seconds: float,
    *options: str,
    store: bool = False,
    python: str = sys.executable,
) -> None:
    """Check that each kind of follow-up that is sent while Redis is away is done once when Redis is back.

    ``store`` makes the result store unavailable as well; ``python`` has the Celery that the worker runs with.
    """
    results = Server(directory / "results")
    conf = {
        "result_backend": f"redis://127.0.0.1:{results.port}/0",
        "worker_prefetch_multiplier": 1,
        "result_backend_always_retry": True,
        "result_backend_max_retries": 18,
        "result_backend_max_sleep_between_retries_ms": 2000,
    }
    numbers = list(range(len(KINDS)))
    once = dict.fromkeys(numbers, 1)
    with ExitStack() as stack:
        stack.callback(results.end)
        worker = stack.enter_context(
            working(directory, *options, delivery=DELIVERY, conf=conf, shop=SHOP, python=python)
        )
        if "--max-tasks-per-child" not in options:
            send(worker, results, "warm")
            worker.done(list(range(100, 130)))
        send(worker, results, "all")
        worker.done(numbers, "start")
        wait_for(lambda: worker.times("start")[CHORD] == 2, "both tasks of the chord")
        others = [
            threading.Thread(target=away, args=(results, fault, seconds, lambda: None))
        ] * store
        for other in others:
            other.start()
        away(worker.server, fault, seconds, (directory / "outage").touch)
        for other in others:
            other.join()
        worker.done(numbers)
        settled(worker)
        assert worker.server.client.hlen("fleet:dead-letters") == 0
    begun = {number: worker.times("start")[number] for number in numbers}
    ended = {number: worker.times("end")[number] for number in numbers}
    assert begun == {**once, CHORD: 2}
    if fault == "frozen":
        # A frozen Redis may have a message without having confirmed it; then its sender sends it again.
        assert all(ended.values())
    else:
        assert ended == once


def settled(worker: Worker) -> None:
    wait_for(lambda: worker.unacked == 0, "nothing unacked")
    wait_for(lambda: worker.server.client.llen(QUEUE) == 0, "nothing waits")
