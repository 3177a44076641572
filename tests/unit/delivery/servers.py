"""Real Redis servers of a test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.fleet import free_port, wait_for
from tests.programs import required


@contextmanager
def redis_server(directory: Path, *options: str, users: str | None = None) -> Iterator[int]:
    """A server without TLS, with the users of an ACL file where one is given; its port."""
    port = free_port()
    argv: Sequence[str] = (
        *(required("redis-server"), "--port", str(port), "--bind", "127.0.0.1"),
        *("--dir", str(directory), "--save", "", "--appendonly", "no", *options),
    )
    if users is not None:
        path = directory / "users.acl"
        # Who looks on, with rights that no part of a fleet has.
        path.write_text(f"{users}user looker on >looker ~* &* +@all\n")
        argv = (*argv, "--aclfile", str(path))
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            redis.Redis(port=port).ping()
        except redis.AuthenticationError:
            return True
        return True

    try:
        wait_for(answers)
        yield port
    finally:
        server.kill()
        server.wait()


def looker(port: int) -> redis.Redis:
    """A client that may see everything, of a server with users."""
    found: redis.Redis = redis.Redis(port=port, username="looker", password="looker")
    return found
