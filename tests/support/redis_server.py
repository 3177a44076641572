"""Real Redis servers for tests."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scripts.ports import free_port
from tests.programs import required


class Server:
    """A server on this machine; unless an option says otherwise, it keeps no data on disk.

    Args:
        directory: Its directory.
        options: More options of redis-server.
        users: The rules of its ACL file. The user `looker`, who may do everything, is added.
        tls: A directory with `ca.crt`, `host.crt` and `host.key`. With it, the server has a second port, for TLS; an
            option may make it ask clients for certificates.
    """

    def __init__(
        self, directory: Path, *options: str, users: str | None = None, tls: Path | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port, self.tls_port = free_port(), 0
        self._argv = [
            *(required("redis-server"), "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(directory), "--save", ""),
        ]
        if tls is not None:
            self.tls_port = free_port()
            self._argv += ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
            for name, file in (("ca-cert", "ca.crt"), ("cert", "host.crt"), ("key", "host.key")):
                self._argv += [f"--tls-{name}-file", str(tls / file)]
        if users is not None:
            path = directory / "users.acl"
            path.write_text(f"{users}user looker on >looker ~* &* +@all\n")
            self._argv += ["--aclfile", str(path)]
        self._argv += options
        self.process: subprocess.Popen[bytes]
        login = None if users is None else "looker"
        #: A client that may do everything, without TLS.
        self.client: redis.Redis = redis.Redis(
            port=self.port, username=login, password=login, retry=Retry(NoBackoff(), 0)
        )

    def start(self, *more: str, seconds: float = 60) -> None:
        """Start the server, and wait until it has loaded its data."""
        with tempfile.TemporaryFile() as log:
            self.process = subprocess.Popen([*self._argv, *more], stdout=log, stderr=log)
            end = time.monotonic() + seconds
            while b"Ready to accept" not in (said := os.pread(log.fileno(), 1 << 20, 0)):
                assert self.process.poll() is None, said.decode()
                assert time.monotonic() < end, said.decode()
                time.sleep(0.01)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stop the server as systemd does."""
        self.process.terminate()
        self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def calls(self) -> dict[str, int]:
        """Return how often each command was called since the statistics were reset."""
        found = self.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): value["calls"] for name, value in found.items()}


@contextmanager
def redis_server(
    directory: Path, *options: str, users: str | None = None, tls: Path | None = None
) -> Iterator[Server]:
    """Run a server during the block, which may also freeze, stop or kill it."""
    server = Server(directory, *options, users=users, tls=tls)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        server.client.close()


@contextmanager
def redis_servers(
    directory: Path, users: Mapping[str, str], *options: str, tls: Path | None = None
) -> Iterator[dict[str, Server]]:
    """Run a server for each name that has users, each in its own directory; yield them by name."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(redis_server(directory / name, *options, users=text, tls=tls))
            for name, text in users.items()
        }


def looker(port: int) -> redis.Redis:
    """Return a client that may do everything, for a server with users."""
    found: redis.Redis = redis.Redis(port=port, username="looker", password="looker")
    return found
