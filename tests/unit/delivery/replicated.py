"""Three Redis servers with a primary and three Sentinels, with TLS and the roles' users.

They are set up and started as the role `redis` does it (`desired/replication.py`, `templates/redis`).
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
    SentinelPlace,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl, replication

from celery_fleet.common.redis_client import Client, ClientError, Server
from celery_fleet.compat import primary as following
from scripts.ports import free_port
from tests.fleet import PASSWORDS, QUEUES
from tests.programs import knows_setinfo, required
from tests.render.units import render
from tests.support.certificates import Authority

#: The only name that every machine can resolve, so the servers differ by their ports.
HOST = "localhost"
LOGINS = {**PASSWORDS, "replica": "pw-of-replica", "sentinel": "pw-of-sentinel"}
NUMBER, QUORUM = 3, 2

#: Seconds that servers may take on a busy machine.
PATIENCE = 60.0

#: Seconds by which an election without a winner delays a failover: twice `failover-timeout`, and up to one more, by
#: which each Sentinel varies it.
NEXT_ELECTION = following.STALE + 1.0


@dataclass
class Program:
    """A server or a Sentinel: its directory, port, command and process."""

    directory: Path
    port: int
    argv: list[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it in any state."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None


@dataclass
class Replicated:
    """The servers and Sentinels of a test."""

    directory: Path
    kind: str = "broker"
    min_replicas: int = 1
    #: Servers that have certificates of the same authority.
    like: Replicated | None = None
    servers: list[Program] = field(default_factory=list)
    sentinels: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = f"shop-{self.kind}"
        self._ports = [free_port() for _ in range(2 * NUMBER)]
        self.tls = self.like.tls if self.like else self.directory / "tls"
        if self.like is None:
            self.tls.mkdir(parents=True)
            Authority("test").install(self.tls, f"DNS:{HOST}", "IP:127.0.0.1")
        self.ca = str(self.tls / "ca.crt")
        self.servers = [self._server(number) for number in range(NUMBER)]
        self.sentinels = [self._sentinel(number) for number in range(NUMBER)]

    def address(self) -> dict[str, Any]:
        """Return the broker as the facts have it."""
        known = [{"host": HOST, "port": one.port} for one in self.sentinels]
        return {"host": HOST, "port": self.servers[0].port, "name": self.name, "sentinels": known}

    def start(self) -> None:
        """Start everything, and wait until each Sentinel knows all others and both replicas."""
        for one in (*self.servers, *self.sentinels):
            one.start()
        self.until(self.is_whole, "the Sentinels know everything")

    def is_whole(self) -> bool:
        """Return whether each Sentinel knows all others and both replicas, and the primary has both."""
        for one in self.sentinels:
            state = self.told(one)
            numbers = (state["num-slaves"], state["num-other-sentinels"])
            if state["flags"] != "master" or numbers != (str(NUMBER - 1), str(NUMBER - 1)):
                return False
        about = self.ask(self.primary(), "INFO", "replication")
        return f"connected_slaves:{NUMBER - 1}" in about and about.count("state=online") == 2

    def told(self, sentinel: Program) -> dict[str, str]:
        """Return what a Sentinel knows of the primary."""
        answer = self.ask(sentinel, "SENTINEL", "MASTER", self.name)
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def primary(self) -> Program:
        """Return the server that most Sentinels that answer take for the primary."""
        ports = []
        for one in self.sentinels:
            with suppress(OSError, ClientError):
                ports.append(int(self.told(one)["port"]))
        port = max(ports, key=ports.count)
        return next(one for one in self.servers if one.port == port)

    def replicas(self) -> list[Program]:
        """Return the other servers."""
        return self.replicas_of(self.primary())

    def replicas_of(self, primary: Program) -> list[Program]:
        """Return the servers other than this one."""
        return [one for one in self.servers if one is not primary]

    def lost_elections(self) -> list[int]:
        """Return in how many elections each Sentinel has asked for votes and got too few."""
        words = "-failover-abort-not-elected"
        return [(one.directory / "log").read_text().count(words) for one in self.sentinels]

    def access(self, program: Program) -> RedisAccess:
        """Return how a deploy logs in to one server."""
        return RedisAccess(
            host=HOST,
            port=program.port,
            ca=self.ca,
            user="admin",
            password=LOGINS["admin"],
            primary=self.name,
            sentinels=tuple(SentinelPlace(HOST, one.port) for one in self.sentinels),
        )

    def ask(self, program: Program, *words: str, user: str = "admin") -> Any:
        """Ask one server or Sentinel directly."""
        server = Server(HOST, program.port, ca=self.ca, user=user, password=LOGINS[user])
        with Client(server, 5) as client:
            return client.ask(*words)

    def refused(self) -> list[str]:
        """Return what servers and Sentinels that answer have refused to users, without their own reconnections."""
        found = []
        for one in (*self.servers, *self.sentinels):
            with suppress(OSError):
                for entry in self.ask(one, "ACL", "LOG"):
                    about = dict(zip(entry[::2], entry[1::2], strict=True))
                    found.append(f"{about['username']}: {about['reason']} {about['object']}")
        return found

    def until(self, look: Any, what: str, seconds: float = PATIENCE) -> float:
        """Wait for something; return how many seconds it took."""
        began = time.monotonic()
        while True:
            with suppress(OSError, ClientError, ValueError):
                if look():
                    return time.monotonic() - began
            assert time.monotonic() - began < seconds, f"not in time: {what}\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """Return the ends of all logs."""
        paths = [one.directory / "log" for one in (*self.servers, *self.sentinels)]
        return "\n".join(
            f"--- {path}\n{path.read_text()[-1500:]}" for path in paths if path.exists()
        )

    def stop(self) -> None:
        for one in (*self.sentinels, *self.servers):
            if one.process is not None:
                with suppress(ProcessLookupError):
                    one.signal(signal.SIGCONT)
                one.kill()

    def _server(self, number: int) -> Program:
        own, data = self._directories(f"server{number}", f"server{number}")
        port = self._ports[number]
        instance = {
            "kind": self.kind,
            "name": own.name,
            "port": port,
            "maxmemory": "64mb",
            "appendonly": True,
        }
        text = self._rendered(
            "redis.conf.j2",
            own.parent,
            redis_instance=instance,
            redis_replication=self._replication(0),
        )
        (own / "redis.conf").write_text(self._moved(text, own.name, data))
        (own / "users.acl").write_text(
            acl.acl(self.kind, LOGINS, QUEUES, setinfo=knows_setinfo(), standby=True)
        )
        # On hosts, servers differ by their hosts, so the primary is recognised by it.
        primary: Any = {"host": HOST if number else "", "port": self._ports[0]}
        itself: Any = {**self._replication(0), "host": ""}
        for file in replication.instance_files(str(own), "redis", itself, primary, LOGINS):
            Path(file["dest"]).write_text(file["content"])
        (data / "role.conf").write_text((own / "first.conf").read_text())
        program = required("redis-server")
        include = ["--include", str(own / "redis.conf"), "--supervised", "no"]
        return Program(data, port, [program, str(data / "role.conf"), *include])

    def _sentinel(self, number: int) -> Program:
        own, data = self._directories(f"sentinel{number}/shop-sentinel", f"sentinel{number}")
        port = self._ports[NUMBER + number]
        primary: Any = {"name": self.name, "host": HOST, "port": self.servers[0].port}
        facts: Any = {"name": "shop", "clients": {}, "ca": self.ca}
        servers = {
            "host": HOST,
            "config": str(own.parent),
            "tls": str(self.tls),
            "flavor": "redis",
            "setinfo": knows_setinfo(),
            "timeout": PATIENCE,
            "replication": self._replication(port),
        }
        state = replication.sentinel_state(facts, servers, [primary], LOGINS)
        for file in state["files"]:
            if "content" in file:
                Path(file["dest"]).write_text(file["content"])
            elif file["src"].startswith("redis/"):
                text = self._rendered("sentinel.conf.j2", own.parent, **file["vars"])
                Path(file["dest"]).write_text(self._moved(text, own.name, data))
        (data / "sentinel.conf").write_text((own / "first.conf").read_text())
        program = required("redis-server")
        include = ["--sentinel", "--include", str(own / "sentinel.conf"), "--supervised", "no"]
        return Program(data, port, [program, str(data / "sentinel.conf"), *include])

    def _replication(self, port: int) -> Any:
        return {
            "host": HOST,
            "port": port,
            "quorum": QUORUM,
            "min_replicas": self.min_replicas,
            "priority": 100,
            "down_after": 3,
            "addresses": {},
        }

    def _moved(self, text: str, name: str, data: Path) -> str:
        """Return a configuration with this test's directories instead of a host's."""
        for unit in (f"redis@{name}.service", f"{name}.service"):
            text = text.replace(f"/run/credentials/{unit}", str(self.tls))
        return text.replace(f"{replication.DATA}/{name}", str(data))

    def _directories(self, name: str, host: str) -> tuple[Path, Path]:
        own, data = self.directory / "etc" / name, self.directory / host
        own.mkdir(parents=True)
        data.mkdir()
        return own, data

    def _rendered(self, template: str, config: Path, **variables: Any) -> str:
        """Render a template of the role as Ansible does."""
        own = {
            "redis_bind": "127.0.0.1",
            "redis_tls_directory": str(self.tls),
            "redis_config_directory": str(config),
            "__redis_auth_clients": "no",
        }
        return render(f"redis/{template}", {**own, **variables})


@contextmanager
def replicated(directory: Path, **options: Any) -> Iterator[Replicated]:
    """Run servers and Sentinels; at the end, kill all of them."""
    made = Replicated(directory, **options)
    try:
        made.start()
        yield made
    finally:
        made.stop()
