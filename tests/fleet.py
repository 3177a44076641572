"""Two real Redis servers with the roles' users, and a real worker; without TLS, which does not affect rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from celery import Celery

from celery_fleet.config.settings import parse
from celery_fleet.ops.app import make_app
from tests.facts import facts
from tests.programs import knows_setinfo
from tests.support.redis_server import redis_servers

ROOT = Path(__file__).resolve().parents[1]
USERS = ("worker", "beat", "producer", "flower", "operator", "admin")
PASSWORDS = {user: f"pw-of-{user}" for user in USERS}
QUEUES = ["mail", "bulk"]
NODE = "w@test"

SHOP = """
import os
import time
from celery import Celery
app = Celery("shop")

@app.task
def add(a, b):
    return a + b

@app.task
def slow(seconds):
    time.sleep(seconds)

@app.task
def until(name):
    while not os.path.exists(name):
        time.sleep(0.1)

@app.task
def fail(text):
    raise ValueError(text)

@app.task(ignore_result=True)
def silent():
    print("said by the task")

@app.task(queue="nowhere")
def lost():
    pass

@app.task
def when():
    return time.time()

@app.task(ignore_result=True)
def note(number, seconds=0):
    with open("ledger", "a") as ledger:
        ledger.write(f"{number}\\n")
    time.sleep(seconds)
"""


def client(port: int, user: str) -> redis.Redis:
    made: redis.Redis = redis.Redis(port=port, username=user, password=PASSWORDS[user])
    return made


def environment(
    component: str, settings: Path, *directories: Path, app: str | None = None
) -> dict[str, str]:
    """Return the environment of a process of the fleet.

    Args:
        component: What it is: `worker`, `beat`, `producer` and others.
        settings: Its settings file.
        directories: What it imports from, besides the package.
        app: CELERY_APP, as `celery-fleet exec` sets it.
    """
    made = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *map(str, directories)]),
        "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
        "CELERY_FLEET_COMPONENT": component,
        "CELERY_FLEET_SETTINGS": str(settings),
    }
    return made if app is None else {**made, "CELERY_APP": app}


class Fleet:
    """A broker, a result store and a worker."""

    def __init__(
        self,
        directory: Path,
        ports: dict[str, int],
        delivery: dict[str, Any] | None = None,
        conf: dict[str, Any] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.directory = directory
        #: The Python that its processes use.
        self.python = python
        #: The worker's settings: its `delivery`, and overrides of its `celery`.
        self.delivery = delivery
        self.conf = conf or {}
        self.ports = ports
        #: Seconds, for everything that starts from now on.
        self.visibility_timeout = 3600.0
        #: For all processes: celery_app_metrics.
        self.metrics = False
        #: celery_app_history_mb.
        self.history = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "shop.py").write_text(SHOP)

    def settings(self, user: str) -> dict[str, Any]:
        """Return a component's settings as the roles write them, without TLS."""
        address = {kind: {"host": "127.0.0.1", "port": port} for kind, port in self.ports.items()}
        document = desired_settings.process_settings(
            facts(
                **address,
                visibility_timeout=self.visibility_timeout,
                routes={"shop.*": {"queue": "mail"}},
                metrics=self.metrics,
                history=self.history,
                state=str(self.directory),
            ),
            user,
            PASSWORDS[user],
        )
        conf: dict[str, Any] = document["celery"]
        for name in ("broker_use_ssl", "redis_backend_use_ssl"):
            conf.pop(name, None)
        for name in {"broker_url", "result_backend"} & set(conf):  # beat stores no result
            conf[name] = conf[name].replace("rediss://", "redis://")
        if user == "worker":
            if self.delivery is not None:
                document["delivery"] = self.delivery
            for name, value in self.conf.items():
                conf[name] = {**conf.get(name, {}), **value} if isinstance(value, dict) else value
        return document

    def environment(self, user: str) -> dict[str, str]:
        path = self.directory / f"{user}.json"
        path.write_text(json.dumps(self.settings(user)))
        return environment(user, path, self.directory, app="shop")

    def start(self, *argv: str, user: str = "worker", **environ: str) -> subprocess.Popen[bytes]:
        """Start a program of Celery; a worker writes its output to the file worker.log."""
        with (self.directory / f"{user}.log").open("ab") as log:
            return subprocess.Popen(
                [self.python, "-m", *argv],
                cwd=self.directory,
                env={**self.environment(user), **environ},
                stdout=log,
                stderr=log,
            )

    def log(self, user: str = "worker") -> str:
        """Return what its programs have printed so far."""
        return (self.directory / f"{user}.log").read_text()

    def ledger(self) -> list[int]:
        """Return the numbers with which the task ``note`` was run, in the order of the starts."""
        path = self.directory / "ledger"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def app(self) -> Any:
        """Return a Celery app in this process that sends with the producer's rights."""
        made = Celery("shop", set_as_current=False)
        made.conf.update(self.settings("producer")["celery"])
        return made

    def wait_for_worker(self, node: str) -> None:
        """Wait until a worker answers a ping with the operator's rights."""
        app = make_app(parse(self.settings("operator"), "settings"))
        try:
            wait_for(lambda: app.control.ping(destination=[node], timeout=1), 120)
        finally:
            app.close()

    def celery(self, *argv: str, user: str = "operator") -> str:
        """Run Celery's own command line as a user; return its output."""
        done = subprocess.run(
            [self.python, "-m", "celery", "--no-color", *argv],
            cwd=self.directory,
            env=self.environment(user),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def told(self, *argv: str, user: str = "operator") -> str:
        """Run Celery's `inspect` or `control`, which ends as soon as the worker has answered; return its output."""
        return self.celery(*argv, f"--destination={NODE}", "--timeout=60", user=user)

    def listeners(self) -> set[bytes]:
        """Return the broker's clients that listen to all events; the worker itself listens to some of them."""
        bound = client(self.ports["broker"], "operator").smembers("_kombu.binding.celeryev")
        return {one for one in bound if one.startswith(b"#")}

    def refused(self) -> list[str]:
        """Return what Redis has refused since the last call."""
        found = []
        for kind, port in self.ports.items():
            admin = client(port, "admin")
            found += [f"{kind}: {entry}" for entry in admin.acl_log()]
            admin.acl_log_reset()
        return found


@contextmanager
def running(
    directory: Path,
    *more: str,
    delivery: dict[str, Any] | None = None,
    celery: dict[str, Any] | None = None,
    python: str = sys.executable,
    remote_control: bool = False,
    clients: dict[str, Any] | None = None,
    history: int = 0,
) -> Iterator[Fleet]:
    """Run a fleet in a directory, its worker with further options.

    ``delivery`` belongs to the worker's settings; ``celery`` overrides its Celery settings;
    ``python`` is the Python of all its processes; ``remote_control`` is that of producers; ``clients`` are those
    outside of it, each with the password ``pw-of-<name>``. With a ``history`` of some megabytes, processes also count
    tasks, and load the directory's own ``sitecustomize.py``.
    """
    passwords = {**PASSWORDS, **{name: f"pw-of-{name}" for name in clients or {}}}
    users = {
        kind: acl.acl(kind, passwords, QUEUES, knows_setinfo(), remote_control, clients)
        for kind in ("broker", "results")
    }
    with redis_servers(directory, users) as servers, ExitStack() as stack:
        ports = {kind: server.port for kind, server in servers.items()}
        made = Fleet(directory, ports, delivery, celery, python)
        made.history, made.metrics = history, bool(history)
        made.processes = {kind: server.process for kind, server in servers.items()}
        options = ("-n", NODE, "-Q", "mail", "-P", "threads", "-c", "2", "-l", "WARNING", *more)
        worker = made.start("celery", "-A", "shop", "worker", *options)
        made.processes["worker"] = worker
        stack.callback(worker.wait, 60)
        stack.callback(worker.terminate)
        made.wait_for_worker(NODE)
        made.refused()
        yield made


def printed(directory: Path, environment: dict[str, str], *argv: str) -> Any:
    """Return the JSON that a command prints."""
    done = subprocess.run(
        argv,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(look: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if look():
                return
        except (redis.ConnectionError, AssertionError):
            pass
        assert time.monotonic() < end, "it did not start"
        time.sleep(0.02)
