"""A process of the pool does not wait for a lock that a thread of the main process held when it was forked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import celery_fleet

SOURCE = Path(celery_fleet.__file__).parents[1]

#: A thread holds a lock; the child needs it, and its alarm ends it.
PROGRAM = """
import os, signal, sys, threading
import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from celery_fleet.compat import forks

app, pool = Celery("shop", backend="redis://127.0.0.1:1/0"), redis.ConnectionPool()
if sys.argv[1] == "renewed":
    forks.install()
    forks.install()
lock, use = {
    # The first use of a result backend makes its client.
    "client": (vars(RedisBackend)["client"].lock, lambda: app.backend.client),
    # The child closes the connections of the lease.
    "pool": (pool._lock, pool.disconnect),
}[sys.argv[2]]
held, ended = threading.Event(), threading.Event()

def hold():
    with lock:
        held.set()
        ended.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(3 if sys.argv[1] == "stock" else 50)
    use()
    os._exit(0)
_, status = os.waitpid(child, 0)
ended.set()
use()
assert app.backend.client is not None
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["client", "pool"])
@pytest.mark.parametrize(("locks", "status"), [("stock", -14), ("renewed", 0)])
def test_a_child_gets_what_a_thread_had_locked(what: str, locks: str, status: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, locks, what],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout.strip(), ended.stderr) == (str(status), "")
