"""Set up the two sides of the comparison, each with a Redis with TLS and the roles' users, and with its workers.

Both run all the time and get their load in turn, so they share the same machine, and neither sees the other's
commands.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl, delivery
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import Facts
from celery import Celery
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scripts.ports import free_port, listens

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1"
USERS = ("worker", "producer", "operator", "admin")
OURS = "bench"
TAKES = ("stock", "atomic")
#: Seconds that a start may take: up to 64 workers at once, on a machine that is busy with other things.
PATIENCE = 900

APPLICATION = """
import os
import time

from celery import Celery

app = Celery("bench")
MARKS = os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task(ignore_result=True)
def nothing(text=""):
    pass


@app.task(ignore_result=True)
def mark(number):
    os.write(MARKS, f"{number} {time.monotonic()}\\n".encode())
"""


class BenchSetupError(Exception):
    """The reason that stops the measurement, for the person who started it."""


def certificate(directory: Path) -> None:
    """Write `host.crt` and `host.key`, self-signed, for the loopback address."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ADDRESS)])
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    # Without this extension Python from 3.13 on trusts no certificate.
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (directory / "host.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = directory / "host.key"
    path.touch(mode=0o600)
    path.write_bytes(private)


def until(
    look: Callable[[], bool], what: str, seconds: float = PATIENCE, pause: float = 0.1
) -> None:
    """Wait until a condition is true.

    Raises:
        BenchSetupError: It did not become true in time.
    """
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise BenchSetupError(f"{what} for {seconds:.0f} s")
        time.sleep(pause)


@dataclass
class Side:
    """One way to fetch messages, with its broker and its workers."""

    take: str
    directory: Path
    port: int
    results: int
    passwords: dict[str, str] = field(repr=False)
    server: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def settings(self, user: str) -> dict[str, Any]:
        """Return the settings that the roles give to a component."""
        knobs = {"fetch": self.take}
        # As far as settings need them.
        facts = {
            "name": "bench",
            "scheduler": "persistent",
            "broker": {"host": ADDRESS, "port": self.port},
            "results": {"host": ADDRESS, "port": self.results},
            "redis_ca": str(self.directory / "host.crt"),
            "client": {},
            "visibility_timeout": 300 if self.take == "atomic" else 3600,
            "delivery": "at_least_once",
            "settings": {},
            "routes": {},
            # What is compared is the fetch alone.
            "metrics": False,
            "history": 0,
        }
        return desired_settings.process_settings(
            cast("Facts", facts),
            user,
            self.passwords[user],
            parts=delivery.document("at_least_once", knobs) if user == "worker" else None,
        )

    def client(self, user: str = OURS, port: int | None = None) -> Any:
        """Return a client of its broker, or of the server on another port."""
        made: Any = redis.Redis(
            host=ADDRESS,
            port=port or self.port,
            username=user,
            password=self.passwords[user],
            ssl=True,
            ssl_ca_certs=str(self.directory / "host.crt"),
        )
        return made

    def app(self, user: str = "producer") -> Any:
        """Create a Celery application in this process with the user's rights."""
        made = Celery("bench", set_as_current=False)
        made.conf.update(self.settings(user)["celery"])
        return made

    def wait_for_servers(self) -> None:
        """Wait until its broker and its result store answer."""
        for port in (self.port, self.results):
            client = self.client(port=port)

            def answers(port: int = port, client: Any = client) -> bool:
                try:
                    return listens(port) and bool(client.ping())
                except redis.ConnectionError:
                    return False

            until(answers, "Redis does not answer", 60)

    @property
    def marks(self) -> Path:
        """Return the file in which its tasks record when they started."""
        return self.directory / f"{self.take}.marks"

    def start(self, queues: Sequence[str], pool: Sequence[str]) -> None:
        """Start another worker for some queues, with options that choose its pool."""
        path = self.directory / f"{self.take}.json"
        path.write_text(json.dumps(self.settings("worker")))
        node = f"{self.take}{len(self.workers)}@bench"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            "CELERY_FLEET_COMPONENT": "worker",
            "CELERY_FLEET_SETTINGS": str(path),
            "BENCH_MARKS": str(self.marks),
        }
        words = ["-A", "application", "worker", "-n", node, "-Q", ",".join(queues)]
        with (self.directory / f"{self.take}.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "celery", *words, "-l", "WARNING", *pool],
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=log,
                # A separate process group, so that all of it can be killed.
                start_new_session=True,
            )
        self.workers.append(started)

    def wait(self) -> None:
        """Wait until all its workers answer.

        Raises:
            BenchSetupError: A worker has ended, or does not start.
        """
        app = self.app("operator")
        # The operator's settings give up at once, but a start takes some time.
        app.conf.update(broker_connection_timeout=30)

        def answer() -> bool:
            for worker in self.workers:
                if worker.poll() is not None:
                    tail = (self.directory / f"{self.take}.log").read_text()[-2000:]
                    raise BenchSetupError(f"a worker with the {self.take} take has ended:\n{tail}")
            return len(app.control.ping(timeout=2)) >= len(self.workers)

        until(answer, f"workers with the {self.take} take don't answer")

    def stop(self) -> None:
        """Stop its workers, gracefully if possible."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        self.workers.clear()
        self.client().flushall()

    def processor_seconds(self) -> float:
        """Return the processor seconds that its broker has used so far."""
        found = self.client().info("cpu")
        return float(found["used_cpu_user"] + found["used_cpu_sys"])

    def workers_seconds(self) -> float:
        """Return the processor seconds that its workers have used so far, including their pools."""
        groups = {worker.pid for worker in self.workers}
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                found = path.read_text().rsplit(")", 1)[1].split()
            except OSError:  # it has ended in the meantime
                continue
            if int(found[3]) in groups:
                ticks += int(found[11]) + int(found[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def refused(self) -> list[str]:
        """Return the commands that its broker has refused to any user."""
        return [f"{one['username']}: {one['object']}" for one in self.client().acl_log()]


@contextmanager
def both_sides(queues: Sequence[str]) -> Iterator[list[Side]]:
    """Yield both sides without workers; their brokers' users may use the queues. Everything is removed at the end."""
    place = ROOT / ".state" / "bench" / f"delivery-{os.getpid()}"
    place.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        certificate(place)
        (place / "application.py").write_text(APPLICATION)
        passwords = {user: secrets.token_hex(16) for user in (*USERS, OURS)}
        results = free_port()
        stack.enter_context(_server(place, "results", results, passwords, queues))
        sides = []
        for take in TAKES:
            port = free_port()
            server = stack.enter_context(_server(place, f"broker-{take}", port, passwords, queues))
            sides.append(Side(take, place, port, results, passwords, server))
        for side in sides:
            side.wait_for_servers()
            stack.callback(side.stop)
        yield sides


@contextmanager
def _server(
    place: Path, name: str, port: int, passwords: dict[str, str], queues: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    program = shutil.which("redis-server", path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if program is None:
        raise BenchSetupError("redis-server is not installed; run `make setup`")
    directory = place / name
    directory.mkdir()
    users = directory / "users.acl"
    users.touch(mode=0o600)
    # The measuring user also cleans up, which no user of the fleet may do.
    measure = f"user {OURS} on >{passwords[OURS]} allkeys allchannels +@all"
    users.write_text(acl.acl(name.split("-")[0], passwords, queues) + measure + "\n")
    options = {
        "port": "0",
        "tls-port": str(port),
        "bind": ADDRESS,
        "tls-cert-file": str(place / "host.crt"),
        "tls-key-file": str(place / "host.key"),
        "tls-ca-cert-file": str(place / "host.crt"),
        "tls-auth-clients": "no",
        "aclfile": str(users),
        "dir": str(directory),
        # As the roles set it.
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen([program, *words], stdout=log, stderr=log)
    try:
        yield server
    finally:
        server.terminate()
        server.wait(60)
