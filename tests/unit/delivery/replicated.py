"""Three Redis servers with a primary and three Sentinels, with TLS and the roles' users.

The servers have the role's configuration, and what it will have to add for replicas and Sentinels. Both kinds of
servers rewrite the file that they are started with. So that is a file in their data directory, and ``--include`` reads
the role's file after it.
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

import jinja2
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl

from celery_fleet.common.redis_client import Client, RedisError, Server
from scripts.ports import free_port
from tests.fleet import PASSWORDS, QUEUES, ROOT
from tests.programs import knows_setinfo, required
from tests.support.certificates import Authority

#: The only name that every machine can resolve, so the servers differ by their ports.
HOST = "localhost"
LOGINS = {**PASSWORDS, "replica": "pw-of-replica", "sentinel": "pw-of-sentinel"}
NUMBER, QUORUM = 3, 2

#: Follows the role's configuration of an instance.
REPLICATION = """
include {config}/login.conf
tls-replication yes
replica-announce-ip {host}
# The new primary refuses to write until it has a replica again.
repl-diskless-sync-delay 0
# A primary that is cut off refuses to write, so few tasks are lost there.
min-replicas-to-write {min_replicas}
min-replicas-max-lag 5
"""
SENTINEL = """
port 0
tls-port {port}
bind 127.0.0.1
tls-cert-file {tls}/host.crt
tls-key-file {tls}/host.key
tls-ca-cert-file {tls}/ca.crt
# It only tells where the primary is.
tls-auth-clients no
# Also when it connects itself, to Redis and to other Sentinels.
tls-replication yes
aclfile {config}/users.acl
include {config}/login.conf
dir {data}
# Certificates have names.
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip {host}
sentinel announce-port {port}
sentinel deny-scripts-reconfig yes
sentinel down-after-milliseconds {name} 3000
# If two Sentinels ask for votes at the same moment, none may win. Twice this time passes until the next vote.
sentinel failover-timeout {name} 10000
sentinel parallel-syncs {name} 1
"""

#: Seconds that servers may take on a busy machine.
PATIENCE = 60.0


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
            authority = Authority("test")
            certificate, key = authority.issue([f"DNS:{HOST}", "IP:127.0.0.1"])
            texts = {"ca.crt": authority.pem, "host.crt": certificate, "host.key": key}
            for name, text in texts.items():
                (self.tls / name).write_text(text)
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
            with suppress(OSError, RedisError):
                ports.append(int(self.told(one)["port"]))
        port = max(ports, key=ports.count)
        return next(one for one in self.servers if one.port == port)

    def replicas(self) -> list[Program]:
        """Return the other servers."""
        primary = self.primary()
        return [one for one in self.servers if one is not primary]

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
            with suppress(OSError, RedisError, ValueError):
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
        own, data = self._directories(f"server{number}", "server")
        port = self._ports[number]
        instance = {
            "kind": self.kind,
            "name": own.name,
            "port": port,
            "maxmemory": "64mb",
            "appendonly": True,
        }
        text = self._rendered("redis.conf.j2", own.parent, redis_instance=instance)
        text = text.replace(f"/var/lib/celery-fleet-redis/{own.name}", str(data)).replace(
            f"/run/credentials/redis@{own.name}.service", str(self.tls)
        )
        more = REPLICATION.format(config=own, host=HOST, min_replicas=self.min_replicas)
        (own / "redis.conf").write_text(text + more)
        (own / "login.conf").write_text(f"masteruser replica\nmasterauth {LOGINS['replica']}\n")
        (own / "users.acl").write_text(acl.acl(self.kind, LOGINS, QUEUES, setinfo=knows_setinfo()))
        first = f"replicaof {HOST} {self._ports[0]}\n" if number else ""
        (data / "role.conf").write_text(first)
        program = required("redis-server")
        include = ["--include", str(own / "redis.conf"), "--supervised", "no"]
        return Program(data, port, [program, str(data / "role.conf"), *include])

    def _sentinel(self, number: int) -> Program:
        own, data = self._directories(f"sentinel{number}", "sentinel")
        port = self._ports[NUMBER + number]
        known = {"tls": self.tls, "config": own, "data": data}
        text = SENTINEL.format(port=port, host=HOST, name=self.name, **known)
        (own / "static.conf").write_text(text)
        secret = LOGINS["sentinel"]
        (own / "login.conf").write_text(
            f"sentinel sentinel-user sentinel\nsentinel sentinel-pass {secret}\n"
            f"sentinel auth-user {self.name} sentinel\nsentinel auth-pass {self.name} {secret}\n"
        )
        (own / "users.acl").write_text(acl.sentinel_acl(LOGINS, setinfo=knows_setinfo()))
        (data / "sentinel.conf").write_text(
            "sentinel resolve-hostnames yes\n"
            f"sentinel monitor {self.name} {HOST} {self.servers[0].port} {QUORUM}\n"
        )
        program = required("redis-server")
        include = ["--sentinel", "--include", str(own / "static.conf"), "--supervised", "no"]
        return Program(data, port, [program, str(data / "sentinel.conf"), *include])

    def _directories(self, name: str, kind: str) -> tuple[Path, Path]:
        own, data = self.directory / "etc" / name, self.directory / name
        own.mkdir(parents=True)
        data.mkdir()
        return own, data

    def _rendered(self, template: str, config: Path, **variables: Any) -> str:
        """Render a template of the role as Ansible does."""
        loader = jinja2.FileSystemLoader(ROOT / "templates" / "redis")
        environment = jinja2.Environment(  # noqa: S701  # it is no HTML
            loader=loader,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        return environment.get_template(template).render(
            redis_bind="127.0.0.1",
            redis_tls_directory=str(self.tls),
            redis_config_directory=str(config),
            __redis_auth_clients="no",
            **variables,
        )


@contextmanager
def replicated(directory: Path, **options: Any) -> Iterator[Replicated]:
    """Run servers and Sentinels; at the end, kill all of them."""
    made = Replicated(directory, **options)
    try:
        made.start()
        yield made
    finally:
        made.stop()
