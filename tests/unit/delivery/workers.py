"""Real workers on a real Redis, and a ledger outside the broker of what their tasks did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from tests.fleet import Fleet

from .holding import Store, serving

#: Seconds that an event may take on a busy machine.
PATIENCE = 120.0

ATOMIC = {"profile": "at_least_once", "fetch": "atomic", "lease": True}
STOCK = {"profile": "at_least_once", "fetch": "stock"}

SHOP = """
import os, time
from pathlib import Path
from celery import Celery
app = Celery("shop")

def note(*words):
    line = " ".join([*map(str, words), os.environ["NODE"]]) + "\\n"
    with open("ledger", "a") as ledger:
        ledger.write(line)

@app.task
def work(name, seconds=0):
    note("begin", name)
    time.sleep(seconds)
    note("end", name)

@app.task
def wait(name):
    note("begin", name)
    while not Path("go-" + os.environ["NODE"]).exists():
        time.sleep(0.05)
    note("end", name)
"""

#: Code that moves a process's clock, without libfaketime.
WRONG_CLOCK = """
import time
real = time.time
time.time = lambda: real() + {seconds}
"""


class Ledger:
    """The file in which tasks report what they do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[tuple[str, str, str]]:
        """Return event, name and node of each line."""
        if not self._path.exists():
            return []
        rows = (line.split() for line in self._path.read_text().splitlines())
        return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]

    def count(self, event: str) -> Counter[str]:
        """Return how often each name reported an event."""
        return Counter(name for what, name, _ in self.lines() if what == event)

    def node(self, event: str, name: str) -> list[str]:
        """Return the nodes on which a name reported an event."""
        return [node for what, who, node in self.lines() if (what, who) == (event, name)]


class Workers:
    """Workers of one application, each with its own settings."""

    def __init__(self, directory: Path, store: Store, python: str = sys.executable) -> None:
        self.python = python
        self.directory = directory
        self.store = store
        self.ledger = Ledger(directory / "ledger")
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._fleet = Fleet(directory, {"broker": store.port, "results": store.port})
        (directory / "shop.py").write_text(SHOP)
        self.app = Celery("shop", set_as_current=False)
        self.app.conf.update(self._fleet.settings("producer")["celery"])
        self.app.conf.update(task_ignore_result=True, result_backend="disabled://")

    def start(
        self,
        node: str,
        *options: str,
        delivery: Mapping[str, Any] = ATOMIC,
        visibility: float = 5,
        clock: float = 0,
        **environ: str,
    ) -> None:
        """Start a worker and wait until it consumes.

        Args:
            node: its name; its log has the same.
            options: further ones of Celery's command line.
            delivery: of its settings.
            visibility: its visibility timeout in seconds.
            clock: seconds by which its clock is wrong.
            environ: further variables.
        """
        own = self.directory / node
        own.mkdir(exist_ok=True)
        document = self._fleet.settings("worker")
        conf = document["celery"]
        conf.update(
            task_acks_late=True,
            worker_prefetch_multiplier=1,
            task_ignore_result=True,
            result_backend="disabled://",
        )
        conf["broker_transport_options"] = {
            **(conf.get("broker_transport_options") or {}),
            "visibility_timeout": visibility,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 5,
        }
        document["delivery"] = dict(delivery)
        document["metrics"] = {"file": f"{self.directory}/%n/metrics.json"}
        (own / "settings.json").write_text(json.dumps(document))
        paths = [self._fleet.environment("worker")["PYTHONPATH"]]
        if clock:
            (own / "sitecustomize.py").write_text(WRONG_CLOCK.format(seconds=clock))
            paths.insert(0, str(own))
        env = {
            **self._fleet.environment("worker"),
            "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [environ.pop("PYTHONPATH", "")])]),
            "CELERY_FLEET_SETTINGS": str(own / "settings.json"),
            "NODE": node,
            **environ,
        }
        with (own / "log").open("wb") as log:
            self.running[node] = subprocess.Popen(
                [
                    *(self.python, "-m", "celery", "-A", "shop", "worker", "-n", f"{node}@test"),
                    *("-Q", "mail", "-l", "INFO", "--without-mingle", "--without-gossip", *options),
                ],
                cwd=self.directory,
                env=env,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: f"{node}@test ready." in self.log(node), f"{node} ready")

    def log(self, node: str) -> str:
        """Return a worker's log."""
        return (self.directory / node / "log").read_text()

    def metrics(self, node: str) -> dict[str, Any]:
        """Return a worker's metrics."""
        found: dict[str, Any] = json.loads((self.directory / node / "metrics.json").read_text())
        return found

    def send(self, task: str, name: str, *args: Any, **options: Any) -> None:
        """Send a task to the workers."""
        self.app.send_task(f"shop.{task}", (name, *args), **options)

    def go(self, node: str) -> None:
        """Let tasks that wait on a node end."""
        (self.directory / f"go-{node}").touch()

    def until(self, look: Callable[[], object], what: str) -> float:
        """Wait for an event; return how many seconds it took."""
        began = time.monotonic()
        while not look():
            told = "\n".join(f"--- {node}\n{self.log(node)[-3000:]}" for node in self.running)
            assert time.monotonic() - began < PATIENCE, f"not in time: {what}\n{told}"
            time.sleep(0.05)
        return time.monotonic() - began

    def tags(self) -> set[str]:
        """Return the tags of held messages."""
        return self.store.held()

    def kill(self, node: str) -> None:
        """Kill a worker, so that it does nothing at its end."""
        process = self.running.pop(node)
        process.kill()
        process.wait(PATIENCE)

    def stop(self, node: str) -> None:
        """Stop a worker in an orderly way."""
        process = self.running.pop(node)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, self.log(node)


@contextmanager
def working(directory: Path, python: str = sys.executable) -> Iterator[Workers]:
    """Run a broker; at the end, stop all workers."""
    with serving(directory / "redis") as store:
        workers = Workers(directory, store, python)
        try:
            yield workers
        finally:
            for process in workers.running.values():
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(PATIENCE)
