"""Workers and a sender of one application whose broker moves, and a record of their tasks outside the broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import delivery
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from celery import Celery

from celery_fleet.compat import primary
from tests import fleet
from tests.facts import facts
from tests.fleet import PASSWORDS, ROOT

from .replicated import PATIENCE, Replicated

#: Seconds after which other workers put back what a worker that is gone held.
LEASE = 15.0

SHOP = """
import os, time
from celery import Celery
app = Celery("shop")

@app.task(ignore_result=True)
def work(name):
    note("begin", name)
    time.sleep(0.02)
    note("end", name)

@app.task(ignore_result=True)
def wait(name):
    note("begin", name)
    time.sleep(600)

@app.task
def add(a, b):
    return a + b

def note(what, name):
    with open("ledger", "a") as ledger:
        ledger.write(f"{what} {name} {time.monotonic():.3f}\\n")
"""

# Each minor of Celery misses a result that is stored while it subscribes again, between its look at the store and the
# subscription. So this looks once more.
LOOK = """
from celery.exceptions import TimeoutError as NoResult

def look(sent, seconds):
    try:
        return sent.get(seconds)
    except NoResult:
        return sent.get(5)
"""
# It answers each line with a result. Sending and reading have to outlast a new primary by themselves.
ASKING = (
    LOOK
    + """
from shop import add, app

for line in iter(input, ""):
    print(look(add.delay(2, 3), 60), flush=True)
"""
)


def settings(
    user: str, broker: Any, results: Any, ca: str, promise: str = "at_least_once"
) -> dict[str, Any]:
    """Return a component's settings as the roles write them."""
    return desired_settings.process_settings(
        facts(
            broker=broker,
            results=results,
            redis_ca=ca,
            delivery=promise,
            visibility_timeout=LEASE,
            routes={"shop.*": {"queue": "mail"}},
        ),
        user,
        PASSWORDS[user],
        parts=delivery.document(promise) if user == "worker" else None,
    )


class Load:
    """A sender, and workers that run what it sends."""

    def __init__(
        self,
        directory: Path,
        broker: Replicated,
        results: Replicated | None = None,
        python: str = sys.executable,
        promise: str = "at_least_once",
    ) -> None:
        self.directory = directory
        self.broker = broker
        self.results = results
        #: The Python of the workers, and of the program that asks for results.
        self.python = python
        #: celery_app_delivery.
        self.promise = promise
        #: Names of tasks that were sent, and how many attempts to send one had failed before.
        self.sent: list[str] = []
        self.failed: Counter[str] = Counter()
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._ended = threading.Event()
        self._sender: threading.Thread | None = None
        (directory / "shop.py").write_text(SHOP)
        (directory / "ledger").touch()

    def settings(self, user: str) -> dict[str, Any]:
        results = self.results or self.broker
        made = settings(
            user, self.broker.address(), results.address(), self.broker.ca, self.promise
        )
        if self.results is None:
            made["celery"]["result_backend"] = "disabled://"
        return made

    def environment(self, user: str, path: Path | None = None) -> dict[str, str]:
        """Return the environment of a process of the fleet."""
        if path is None:
            path = self.directory / f"{user}.json"
            path.write_text(json.dumps(self.settings(user)))
        return fleet.environment(user, path, self.directory)

    def hand_back(self, node: str) -> str:
        """Run what systemd runs when a worker has ended; return what it says."""
        done = subprocess.run(
            [
                *(sys.executable, "-S", "-I", str(ROOT / "src/celery_fleet/system/hand_back.py")),
                *("--settings", str(self.directory / f"{node}.json"), "--user", "root"),
                *("--directory", str(self.directory / f"run-{node}")),
                *("--counts", str(self.directory / f"hand-back-{node}.json")),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def start_worker(self, node: str, *options: str) -> None:
        """Start a worker, and wait until it consumes."""
        path, runtime = self.directory / f"{node}.json", self.directory / f"run-{node}"
        path.write_text(json.dumps(self.settings("worker")))
        runtime.mkdir(exist_ok=True)
        with (self.directory / f"{node}.log").open("ab") as log:
            self._workers[node] = subprocess.Popen(
                [
                    *(self.python, "-m", "celery", "-A", "shop", "worker", "-n", f"{node}@test"),
                    *("-Q", "mail", "-l", "INFO", "-c", "2", *options),
                ],
                cwd=self.directory,
                env={
                    **self.environment("worker", path),
                    "RUNTIME_DIRECTORY": str(runtime),
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.broker.until(lambda: f"{node}@test ready." in self.log(node), f"{node} is ready")

    @contextmanager
    def asking(self, script: str = ASKING) -> Iterator[Callable[[], str]]:
        """Run a program of the application that asks for results; yield a function that returns the next one."""
        with subprocess.Popen(
            [self.python, "-c", script],
            cwd=self.directory,
            env=self.environment("producer"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def result() -> str:
                process.stdin.write("again\n")
                process.stdin.flush()
                return str(process.stdout.readline())

            yield result
            process.stdin.write("\n")
        assert process.returncode == 0

    def log(self, node: str) -> str:
        return (self.directory / f"{node}.log").read_text()

    def kill_worker(self, node: str) -> None:
        """Kill a worker with its pool."""
        process = self._workers.pop(node)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def app(self, user: str = "producer") -> Any:
        """Return an app with a component's settings."""
        primary.install()
        made = Celery("shop", set_as_current=False)
        made.conf.update(self.settings(user)["celery"])
        return made

    def start_sending(self, pause: float = 0.02) -> None:
        """Send tasks in a thread. A task whose sending fails is sent again, as an application would."""
        self._ended.clear()
        self._sender = threading.Thread(target=self._send, args=(pause,), daemon=True)
        self._sender.start()

    def _send(self, pause: float) -> None:
        with self.app() as app:
            number = 0
            while not self._ended.wait(pause):
                number += 1
                name = f"t{number}"
                while True:
                    try:
                        app.send_task("shop.work", (name,), task_id=name)
                    except Exception as error:  # noqa: BLE001  # each failure counts
                        self.failed[name] += 1
                        print(f"{name} could not be sent: {error}")
                        if self._ended.wait(0.2):
                            return
                    else:
                        self.sent.append(name)
                        break

    def stop_sending(self) -> None:
        self._ended.set()
        if self._sender is not None:
            self._sender.join(PATIENCE)

    def noted(self, event: str) -> list[tuple[str, float]]:
        """Return names and times of an event, in the order of the events."""
        rows = [line.split() for line in (self.directory / "ledger").read_text().splitlines()]
        return [(row[1], float(row[2])) for row in rows if len(row) == 3 and row[0] == event]

    def runs(self) -> Counter[str]:
        return Counter(name for name, _ in self.noted("end"))

    def consumes_since(self, moment: float) -> float:
        """Wait for a task that was sent after a moment to end; return the seconds from the moment until then."""
        first = len(self.sent)
        found: list[float] = []

        def look() -> bool:
            fresh = set(self.sent[first + 1 :])
            found[:] = [when for name, when in self.noted("end") if name in fresh]
            return bool(found)

        self.broker.until(look, "a task that was sent since has ended")
        return min(found) - moment

    def settle(self) -> tuple[set[str], dict[str, int]]:
        """Stop sending and wait until nothing more can come; return lost tasks, and how often others ran too often."""
        self.stop_sending()

        def is_empty() -> bool:
            with suppress(Exception):
                primary = self.broker.primary()
                held = self.broker.ask(primary, "HLEN", "unacked", user="worker")
                return not held and not self.broker.ask(primary, "LLEN", "mail", user="worker")
            return False

        self.broker.until(is_empty, "the broker is empty", 2 * PATIENCE + 3 * LEASE)
        time.sleep(1)
        runs = self.runs()
        return set(self.sent) - set(runs), {name: n for name, n in runs.items() if n > 1}

    def stop(self) -> None:
        self.stop_sending()
        for node in [*self._workers]:
            self.kill_worker(node)


@contextmanager
def loaded(directory: Path, broker: Replicated, **options: Any) -> Iterator[Load]:
    made = Load(directory, broker, **options)
    try:
        yield made
    finally:
        made.stop()
