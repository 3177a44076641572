"""A broker, a result store and real workers with dead letters."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from celery import Celery

from celery_fleet.delivery.dead_letters.letters import DeadLetter
from celery_fleet.delivery.dead_letters.store import Choice, DeadLetterStore
from tests import fleet
from tests.facts import facts
from tests.fleet import PASSWORDS, client, wait_for
from tests.programs import knows_setinfo
from tests.support.redis_server import looker, redis_servers

QUEUES = ["mail", "bulk"]

#: Seconds that anything may take on a busy machine.
PATIENCE = 90.0

SHOP = """
import asyncio, os, signal, time
from celery import Celery, signals
from celery.exceptions import Ignore, Reject

from celery_fleet.delivery.dead_letters import waiting

waiting.MOST_HELD = int(os.environ.get("MOST_HELD", waiting.MOST_HELD))
app = Celery("shop")

def say(*words):
    with open(os.environ["LEDGER"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

@app.task(bind=True)
def add(self, a, b):
    say("add", self.request.id)
    return a + b

@app.task(bind=True, time_limit=1)
def endless(self):
    say("begun", self.request.id)
    time.sleep(3600)

@app.task(bind=True)
def headers(self):
    say("headers", self.request.id, sorted(self.request.headers or ()))

@app.task(bind=True)
def slow(self, seconds):
    say("begun", self.request.id)
    time.sleep(seconds)
    say("slow", self.request.id)

@app.task(bind=True, max_retries=None, default_retry_delay=0)
def deadly(self):
    say("deadly", self.request.id)
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, max_retries=None, default_retry_delay=0, acks_late=False)
def deadly_early(self):
    say("deadly_early", self.request.id)
    os._exit(3)

@app.task(bind=True, retry_on_worker_lost=False, reject_on_worker_lost=True)
def deadly_rejected(self):
    say("deadly_rejected", self.request.id)
    os._exit(3)

@app.task(bind=True, max_retries=1, default_retry_delay=0)
def deadly_once(self):
    say("deadly_once", self.request.id)
    os._exit(3)

class DiesAfterwards(app.Task):
    def on_success(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, base=DiesAfterwards)
def deadly_member(self):
    say("deadly_member", self.request.id)

@app.task(bind=True, max_retries=None, default_retry_delay=0)
def exits(self):
    say("exits", self.request.id)
    raise SystemExit(3)

@app.task(bind=True, acks_late=False, max_retries=0)
def exits_early(self):
    say("exits_early", self.request.id)
    raise SystemExit(3)

@app.task(bind=True)
def cancelled(self):
    say("cancelled", self.request.id)
    raise asyncio.CancelledError

@app.task(bind=True, max_retries=1)
def fails(self, how):
    say("fails", self.request.id, self.request.retries)
    if how == "retries":
        raise self.retry(exc=ValueError("no such row"), countdown=0)
    if how == "reject":
        raise Reject("not wanted")
    if how == "ignore":
        raise Ignore
    if how == "waits":
        while not os.path.exists(os.environ["LEDGER"] + ".go"):
            time.sleep(0.1)
    if how != "mended":
        raise ValueError("no such row in postgresql://me:hunter2@db/shop")

if os.environ.get("NEW_RELEASE"):
    @app.task(name="shop.fresh", bind=True)
    def fresh(self):
        say("fresh", self.request.id, self.request.hostname)

@signals.task_unknown.connect
def unknown(name, id, **_):
    say("signal-unknown", id, name)

@signals.task_rejected.connect
def rejected(message, **_):
    say("signal-rejected", (message.headers or {}).get("id"))

@signals.task_failure.connect
def failed(task_id, exception, **_):
    say("signal-failure", task_id, type(exception).__name__)
"""


def message(
    identifier: str, task: str | None = "shop.add", body: Any = None, **headers: Any
) -> dict[str, Any]:
    """Return a message as Celery sends it."""
    content = [[1, 2], {}, {}] if body is None else body
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {
        "body": base64.b64encode(text).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": identifier, "root_id": identifier, **headers},
        "properties": {
            "correlation_id": identifier,
            "delivery_mode": 2,
            "delivery_tag": f"tag-{identifier}",
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "mail"},
            "priority": 0,
        },
    }


class WorkerGroup:
    """The fleet of a test."""

    def __init__(
        self, directory: Path, ports: Mapping[str, int], stack: ExitStack, take: str
    ) -> None:
        self.directory = directory
        self.take = take
        self.ports = ports
        self._stack = stack
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.look = looker(ports["broker"])
        self.store = DeadLetterStore(client(ports["broker"], "operator"))
        (directory / "shop.py").write_text(SHOP)

    def settings(self, **delivery: Any) -> dict[str, Any]:
        address = {kind: {"host": "127.0.0.1", "port": port} for kind, port in self.ports.items()}
        document = desired_settings.process_settings(
            facts(**address, delivery="at_least_once"), "worker", PASSWORDS["worker"]
        )
        conf: dict[str, Any] = document["celery"]
        for name in ("broker_use_ssl", "redis_backend_use_ssl"):
            conf.pop(name)
        for name in ("broker_url", "result_backend"):
            conf[name] = conf[name].replace("rediss://", "redis://")
        options = {
            "profile": "at_least_once",
            "fetch": self.take,
            "dead_letters": True,
            **delivery,
        }
        document["delivery"] = options
        return document

    def worker(
        self,
        name: str,
        *argv: str,
        queues: Sequence[str] = ("mail",),
        environment: Mapping[str, str] | None = None,
        celery: Mapping[str, Any] | None = None,
        **delivery: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it consumes."""
        path = self.directory / f"{name}.json"
        document = self.settings(**delivery)
        document["celery"].update(celery or {})
        path.write_text(json.dumps(document))
        log = (self.directory / f"{name}.log").open("ab")
        options = ("-n", f"{name}@test", "-Q", ",".join(queues), "-l", "INFO")
        found = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "shop", "worker"),
                *(*options, *(argv or ("-c", "2"))),
            ],
            cwd=self.directory,
            env={
                **fleet.environment("worker", path),
                "LEDGER": str(self.ledger),
                **(environment or {}),
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self._stack.callback(end, found)
        wait_for(lambda: f"{name}@test ready." in self.log(name), PATIENCE)
        return found

    def control(self, method: str, *argv: Any, **options: Any) -> None:
        """Send a remote control command to all workers, as the operator."""
        url = f"redis://operator:{PASSWORDS['operator']}@127.0.0.1:{self.ports['broker']}/0"
        app = Celery("shop", broker=url, set_as_current=False)
        with app.connection_for_write() as connection:
            getattr(app.control, method)(*argv, connection=connection, **options)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def send(self, *messages: dict[str, Any] | bytes, queue: str = "mail") -> None:
        for one in messages:
            self.look.lpush(queue, one if isinstance(one, bytes) else json.dumps(one))

    def said(self, word: str) -> list[str]:
        """Return what tasks have reported with this first word, without that word."""
        lines = self.ledger.read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == word]

    def heard(self, word: str, *texts: str) -> None:
        """Wait until tasks have reported all of this."""
        wait_for(lambda: set(texts) <= set(self.said(word)), PATIENCE)

    def letters(self, number: int, payload: bool = False) -> dict[str, DeadLetter]:
        """Wait until there are this many dead letters, and return them."""
        wait_for(lambda: self.store.count() >= number, PATIENCE)
        found = {one.id: one for one in self.store.choose(Choice(), payload)}
        assert len(found) == number
        return found

    def result(self, identifier: str) -> dict[str, Any]:
        """Return a task's result, once it is there."""
        results = looker(self.ports["results"])
        wait_for(lambda: results.exists(f"celery-task-meta-{identifier}"), PATIENCE)
        found: dict[str, Any] = json.loads(results.get(f"celery-task-meta-{identifier}") or "{}")
        return found

    def unacked(self) -> int:
        return int(self.look.hlen("unacked"))

    def refused(self) -> list[Any]:
        """Return what Redis refused to the workers."""
        return [entry for port in self.ports.values() for entry in client(port, "admin").acl_log()]


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker with its pool, in any state; only processes of this test."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def worker_group(directory: Path, take: str = "atomic") -> Iterator[WorkerGroup]:
    """A broker and a result store with the roles' users; workers are started by the test."""
    kinds = ("broker", "results")
    users = {kind: acl.acl(kind, PASSWORDS, QUEUES, knows_setinfo()) for kind in kinds}
    with redis_servers(directory, users) as servers, ExitStack() as stack:
        ports = {kind: server.port for kind, server in servers.items()}
        yield WorkerGroup(directory, ports, stack, take)


def is_empty(look: redis.Redis, *names: str) -> bool:
    return not look.exists(*names)
