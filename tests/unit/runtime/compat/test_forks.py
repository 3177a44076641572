"""A process of the pool does not wait for a lock that a thread of the main process held when it was forked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import celery_fleet

SOURCE = Path(celery_fleet.__file__).parents[1]

#: A thread holds the lock of `RedisBackend.client`; the child asks for the client. Its alarm ends it.
PROGRAM = """
import os, signal, sys, threading
from celery import Celery
from celery.backends.redis import RedisBackend
from celery_fleet.compat import forks

app = Celery("shop", backend="redis://127.0.0.1:1/0")
if sys.argv[1] == "renewed":
    forks.install()
    forks.install()
held, ended = threading.Event(), threading.Event()

def hold():
    with vars(RedisBackend)["client"].lock:
        held.set()
        ended.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(3 if sys.argv[1] == "stock" else 50)
    app.backend.client
    os._exit(0)
_, status = os.waitpid(child, 0)
ended.set()
assert app.backend.client is not None
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("locks", "status"), [("stock", -14), ("renewed", 0)])
def test_a_child_gets_the_client_of_the_result_backend(locks: str, status: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, locks],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout.strip(), ended.stderr) == (str(status), "")


#: A thread holds the lock of a connection pool; the child closes the pool's connections, as it does with the lease's.
POOL = """
import os, signal, sys, threading
import redis
from celery_fleet.compat import forks

if sys.argv[1] == "renewed":
    forks.install()
pool = redis.ConnectionPool()
held, ended = threading.Event(), threading.Event()

def hold():
    with pool._lock:
        held.set()
        ended.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(3 if sys.argv[1] == "stock" else 50)
    pool.disconnect()
    os._exit(0)
_, status = os.waitpid(child, 0)
ended.set()
pool.disconnect()
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("locks", "status"), [("stock", -14), ("renewed", 0)])
def test_a_child_closes_the_connections_of_a_pool(locks: str, status: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", POOL, locks],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout.strip(), ended.stderr) == (str(status), "")
