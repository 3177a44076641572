"""Real workers of every pool on a real Redis, and a ledger outside the broker of what their tasks did."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from celery import Celery

from tests.fleet import PASSWORDS, QUEUES, Fleet, wait_for
from tests.programs import DURABLE, knows_setinfo
from tests.support.redis_server import looker, redis_servers

POOLS = ("prefork", "threads", "solo", "gevent")
SLOTS = 2
PRIORITIES = (0, 3, 6, 9)

SHOP = """
import os
import time
from celery import Celery
app = Celery("shop")
app.conf.update(
    task_ignore_result=True,
    # On a busy machine a process may need longer than Celery's 4 s to start.
    worker_proc_alive_timeout=60,
    task_acks_late=os.environ.get("SHOP_LATE") == "yes",
    worker_prefetch_multiplier=int(os.environ.get("SHOP_MULTIPLIER") or 4),
)

def note(word, task):
    line = f"{word} {task.request.id} {task.request.hostname}\\n"
    with open("ledger", "a") as ledger:
        ledger.write(line)

@app.task(bind=True)
def work(self, seconds):
    note("begin", self)
    time.sleep(seconds)
    note("end", self)

@app.task(bind=True)
def held(self, seconds):
    note("begin", self)
    for _ in range(2400):
        if os.path.exists("go"):
            break
        time.sleep(0.05)
    note("end", self)

@app.task(bind=True, rate_limit="1/s")
def limited(self, seconds):
    note("begin", self)
    time.sleep(seconds)
    note("end", self)
"""


class Ledger:
    """Which tasks began and ended, by their ids."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def _of(self, word: str) -> Counter[str]:
        lines = (line.split() for line in self.path.read_text().splitlines())
        return Counter(line[1] for line in lines if line[0] == word)

    @property
    def begun(self) -> Counter[str]:
        return self._of("begin")

    @property
    def ended(self) -> Counter[str]:
        return self._of("end")


class Worker:
    """One worker's process, with its log and its record."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, state: Path) -> None:
        self.process = process
        self._log = log
        self._state = state
        self.told_at = 0.0

    @property
    def log(self) -> str:
        return self._log.read_text()

    def terminate(self) -> None:
        self.told_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 90) -> int:
        """Wait until it ends; return its exit status."""
        return self.process.wait(seconds)

    @property
    def record(self) -> dict[str, Any]:
        path = self._state / "drain.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}


class Shop:
    """The servers, an application in a directory, and the sender of its tasks."""

    def __init__(self, fleet: Fleet, stack: ExitStack) -> None:
        self.fleet = fleet
        #: A client that may see everything, unlike the roles' users.
        self.witness = looker(fleet.ports["broker"])
        self.ledger = Ledger(fleet.directory / "ledger")
        self._stack = stack
        (fleet.directory / "shop.py").write_text(SHOP)
        self._app = Celery("sender", set_as_current=False)
        address = f"redis://producer:{PASSWORDS['producer']}@127.0.0.1:{fleet.ports['broker']}/0"
        self._app.conf.update(broker_url=address, task_default_queue="mail")
        stack.callback(self._app.close)
        stack.callback(self.go)

    def worker(self, pool: str, again: bool = False, **environ: str) -> Worker:
        """Start a worker and wait until it consumes; with ``again`` it is the same unit's next start."""
        log = self.fleet.directory / ("again.log" if again else "first.log")
        state = self.fleet.directory / "state"
        state.mkdir(exist_ok=again)
        options = ("-n", "w@test", "-Q", "mail", "-P", pool, "-c", str(SLOTS))
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*(sys.executable, "-m", "celery", "-A", "shop", "worker"), *options, "-l", "INFO"],
                cwd=self.fleet.directory,
                env={
                    **self.fleet.environment("worker"),
                    **environ,
                    "STATE_DIRECTORY": str(state),
                    "RUNTIME_DIRECTORY": str(state),
                    "PYTHONUNBUFFERED": "1",
                },
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(_end, process)
        started = Worker(process, log, state)
        wait_for(lambda: " ready." in started.log or process.poll() is not None, 60)
        assert process.poll() is None, started.log
        return started

    def send(self, task: str = "work", seconds: float = 0.0, **options: Any) -> str:
        return str(self._app.send_task(f"shop.{task}", (seconds,), **options).id)

    def go(self) -> None:
        """Let the tasks called `held` end."""
        (self.fleet.directory / "go").touch()

    def load(self, seconds: float = 0.5, number: int = 24, eta: float = 3.0) -> list[str]:
        """Send plain tasks of every priority, some with an ETA and some with a rate limit."""
        ids = []
        for count in range(number):
            options: dict[str, Any] = {"priority": PRIORITIES[count % len(PRIORITIES)]}
            if count % 6 == 2:
                options["countdown"] = eta
            ids.append(self.send("limited" if count % 6 == 4 else "work", seconds, **options))
        return ids

    def queued(self) -> Counter[str]:
        """Return the ids of the messages in the queue's lists."""
        keys = ["mail", *(f"mail\x06\x16{step}" for step in PRIORITIES[1:])]
        items = [item for key in keys for item in self.witness.lrange(key, 0, -1)]
        return Counter(json.loads(item)["headers"]["id"] for item in items)

    def unacked(self) -> set[str]:
        """Return the ids of the messages that a worker holds."""
        items = self.witness.hvals("unacked")
        return {json.loads(item)[0]["headers"]["id"] for item in items}

    def account(self, sent: list[str]) -> dict[str, list[str]]:
        """Return which tasks are lost, or were run or queued more than once."""
        ended, queued = self.ledger.ended, self.queued()
        whole = ended + queued
        return {
            "lost": [id_ for id_ in sent if not whole[id_]],
            "doubled": [id_ for id_ in sent if whole[id_] > 1 or self.ledger.begun[id_] > 1],
            "cut off": [id_ for id_ in self.ledger.begun if not ended[id_]],
        }


#: The atomic fetch, and the parts that keep a worker going while its broker is away.
ATOMIC = {"profile": "at_least_once", "fetch": "atomic", "carry": True, "outage": True}

NOTHING: dict[str, list[str]] = {"lost": [], "doubled": [], "cut off": []}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(10)


@contextmanager
def shop(directory: Path, delivery: dict[str, Any] | None = None) -> Iterator[Shop]:
    """Run two servers with the roles' users, without a worker; `delivery` is part of the workers' settings."""
    kinds = ("broker", "results")
    users = {kind: acl.acl(kind, PASSWORDS, QUEUES, knows_setinfo()) for kind in kinds}
    with redis_servers(directory, users, *DURABLE) as servers, ExitStack() as stack:
        fleet = Fleet(directory, {kind: server.port for kind, server in servers.items()}, delivery)
        fleet.processes = {kind: server.process for kind, server in servers.items()}
        yield Shop(fleet, stack)


def until(look: Callable[[], Any], seconds: float = 60) -> float:
    """Poll until something is true; return how many seconds that took."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.02)  # most look at files, and some ask the worker
    return time.monotonic() - began
