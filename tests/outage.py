"""A worker whose Redis can be stopped, killed, and reached through a slow proxy; a ledger outside the broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.programs import DURABLE
from tests.support import redis_server

ROOT = Path(__file__).resolve().parents[1]
NODE = "w@test"
QUEUE = "mail"

#: Seconds after which something counts as never happening; everything else waits for events.
PATIENCE = 90.0

#: Begins each application here: on SIGUSR2 a process of the worker logs what its threads do.
STACKS = """
import faulthandler, signal

faulthandler.register(signal.SIGUSR2)
"""

SHOP = """
import os, time
from billiard.exceptions import TimeLimitExceeded
from celery import Celery, signals
from kombu.asynchronous.hub import Hub

app = Celery("shop")
BEGAN = time.monotonic()


def write(name, text):
    with open(os.path.join(os.environ["LEDGER"], name), "a") as file:
        file.write(text + "\\n")


@app.task(bind=True)
def work(self, number, seconds=0):
    write("ledger", f"start {number}")
    time.sleep(seconds)
    write("ledger", f"end {number}")


@app.task
def held(number, seconds=0):
    write("ledger", f"start {number}")
    for _ in range(2400):
        if os.path.exists(os.path.join(os.environ["LEDGER"], "go")):
            break
        time.sleep(0.05)
    write("ledger", f"end {number}")


@app.task(bind=True, acks_late=False)
def early(self, number, seconds=0):
    write("ledger", f"start {number}")
    time.sleep(seconds)
    write("ledger", f"end {number}")


@app.task
def consumes(number, seconds=0):
    with app.connection_for_read() as connection, connection.SimpleQueue("aside") as queue:
        queue.get(timeout=30)
        held(number)


@app.task(time_limit=3)
def limited(number):
    write("ledger", f"start {number}")
    time.sleep(600)
    write("ledger", f"end {number}")


@app.task
def asks_another(number, seconds=0):
    # As `result.get()` raises it if the other task has reached its hard time limit.
    raise TimeLimitExceeded(1)


turn = Hub.fire_timers
last = [None]


def timed(self, *args, **kwargs):
    now = time.monotonic()
    if last[0] is not None and now - last[0] > 1.2:
        write("gaps", f"{now - last[0]:.2f} {time.strftime(chr(37) + chr(84))}")
    last[0] = now
    return turn(self, *args, **kwargs)


Hub.fire_timers = timed


@signals.task_failure.connect
def failed(task_id=None, exception=None, args=None, **_):
    write("ledger", f"failed {args[0] if args else '?'} {type(exception).__name__}")
"""

#: Every option of this part, with the lease: if a connection ends between a fetch and its reply, only Redis knows the
#: message, and the lease puts it back.
DELIVERY = {
    "profile": "at_least_once",
    "fetch": "atomic",
    "lease": True,
    "carry": True,
    "outage": True,
}


def pool(name: str) -> tuple[str, ...]:
    """Return the options of a worker for a pool; ``spawn`` is prefork with processes that do not fork."""
    return ("-P", "prefork", "--pool-start-method", "spawn") if name == "spawn" else ("-P", name)


def wait_for(look: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            found = look()
            if found:
                return found
        except redis.RedisError:
            pass
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)


class Server(redis_server.Server):
    """A Redis that keeps what it has confirmed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, *DURABLE)
        self.start(seconds=PATIENCE)

    def kill(self) -> None:
        """Kill it once everything that it confirmed is in its file; `everysec` delays writes while the disk is slow."""
        self.client.config_set("appendfsync", "always")
        self.end()

    def end(self) -> None:
        super().kill()
        self.client.close()


class Proxy:
    """Sits between worker and Redis, and passes bytes on: after a delay, or not at all."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        #: The first connection that carries these bytes ends before they arrive.
        self.cut_at: bytes | None = None
        #: The first connection that carries these bytes ends when they have arrived, and before there is a reply.
        self.lose_reply_to: bytes | None = None
        self._silent: socket.socket | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if self.cut_at is not None and self.cut_at in data:
                    self.cut_at = None
                    break
                time.sleep(self.delay)
                if source is self._silent:
                    continue
                if self.lose_reply_to is not None and self.lose_reply_to in data:
                    self.lose_reply_to = None
                    self._silent = sink
                    sink.sendall(data)
                    time.sleep(0.5)
                    source.shutdown(socket.SHUT_RDWR)
                    break
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            one.close()

    def close(self) -> None:
        self._server.close()
        for one in self._sockets:
            one.close()


class Worker:
    """A worker of the fleet, its broker and its ledger."""

    def __init__(
        self,
        directory: Path,
        server: Server,
        *more: str,
        port: int | None = None,
        delivery: dict[str, Any] | None = None,
        conf: dict[str, Any] | None = None,
        shop: str = SHOP,
        python: str = sys.executable,
    ) -> None:
        self.python = python
        self.directory = directory
        self.server = server
        self.options = more
        self.pool = more[more.index("-P") + 1] if "-P" in more else "prefork"
        self.port = port or server.port
        self.delivery = DELIVERY if delivery is None else delivery
        self.conf = conf or {}
        self.process: subprocess.Popen[bytes] | None = None
        #: The proxy between it and its Redis, if there is one.
        self.proxy: Proxy | None = None
        (directory / "run").mkdir()
        (directory / "shop.py").write_text(STACKS + shop)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "broker_url": f"redis://127.0.0.1:{self.port}/0",
            "broker_transport_options": {
                "socket_timeout": 10,
                "socket_connect_timeout": 3,
                "health_check_interval": 5,
                "visibility_timeout": 3600,
            },
            "result_backend": "disabled://",
            "task_acks_late": True,
            "worker_prefetch_multiplier": 4,
            "task_default_queue": QUEUE,
            **self.conf,
        }

    def start(self) -> None:
        settings = self.directory / "worker.json"
        settings.write_text(
            json.dumps(
                {
                    "format": 1,
                    "component": "worker",
                    "app": "shop",
                    "celery": self.settings,
                    "delivery": self.delivery,
                }
            )
        )
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            "CELERY_FLEET_COMPONENT": "worker",
            "CELERY_FLEET_SETTINGS": str(settings),
            "RUNTIME_DIRECTORY": str(self.directory / "run"),
            "LEDGER": str(self.directory),
            "POOL": self.pool,
        }
        options = ("-n", NODE, "-Q", QUEUE, "-l", "INFO", *self.options)
        with (self.directory / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "celery", "-A", "shop", "worker", *options],
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=log,
                # SIGHUP would wake an orphaned process group with a stopped member.
                start_new_session=True,
            )

    def ready(self) -> None:
        wait_for(lambda: f"{NODE} ready" in self.log, "ready")

    def stop(self) -> None:
        self.go()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGUSR2)
                time.sleep(1)
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                pytest.fail(f"the worker does not end; the end of its log:\n{self.log[-20000:]}")

    def exit(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; return the exit status and the seconds until the exit."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(PATIENCE), time.monotonic() - began

    # --- what it did ---

    @property
    def log(self) -> str:
        path = self.directory / "worker.log"
        return path.read_text() if path.exists() else ""

    @property
    def ledger(self) -> list[str]:
        path = self.directory / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def times(self, what: str) -> Counter[int]:
        """Return how often each task did something."""
        return Counter(int(line.split()[1]) for line in self.ledger if line.split()[0] == what)

    @property
    def gap(self) -> float:
        """Return the longest time between two iterations of the loop; 1.2 s if none was longer."""
        path = self.directory / "gaps"
        return (
            max([1.2, *(float(line.split()[0]) for line in path.read_text().splitlines())])
            if path.exists()
            else 1.2
        )

    @property
    def unacked(self) -> int:
        return int(self.server.client.hlen("unacked"))

    # --- what it should do ---

    def app(self) -> Any:
        made = Celery("shop", set_as_current=False)
        # Results are off, because sending would ask the result store, which may hang.
        url = f"redis://127.0.0.1:{self.server.port}/0"
        made.conf.update(self.settings, broker_url=url, result_backend="disabled://")
        return made

    def send(
        self, count: int, seconds: float, *, first: int = 0, task: str = "work", **options: Any
    ) -> list[int]:
        """Send tasks; return their numbers."""
        numbers = list(range(first, first + count))
        with self.app() as app:
            for number in numbers:
                arguments = (number, seconds) if task != "limited" else (number,)
                app.send_task(f"shop.{task}", arguments, **options)
        return numbers

    def go(self) -> None:
        """Let the tasks called `held` end."""
        (self.directory / "go").touch()

    def done(self, numbers: list[int], what: str = "end") -> None:
        wait_for(lambda: set(numbers) <= set(self.times(what)), f"{what} of {numbers}")


def cut(worker: Worker) -> None:
    """Cut all connections, and wait until the worker has noticed and reconnected."""
    before = worker.log.count("mingle: all alone")
    for kind in ("normal", "pubsub"):
        worker.server.client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    wait_for(lambda: worker.log.count("mingle: all alone") > before, "connected again")


@contextmanager
def working(directory: Path, *more: str, **options: Any) -> Iterator[Worker]:
    """Run a ready worker with its own Redis."""
    with ExitStack() as stack:
        server = Server(directory / "redis")
        stack.callback(server.end)
        proxy = None
        if options.pop("proxied", False):
            proxy = Proxy(server.port)
            stack.callback(proxy.close)
            options["port"] = proxy.port
        worker = Worker(directory, server, *more, **options)
        worker.proxy = proxy
        # pytest shows it if the test fails.
        stack.callback(lambda: print(worker.log[-20_000:]))
        stack.callback(worker.stop)
        worker.start()
        worker.ready()
        yield worker
