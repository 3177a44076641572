"""Workers and senders of each minor of Celery follow primaries that Sentinels know."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.delivery.failing_over import LOOK, Load, loaded
from tests.unit.delivery.replicated import Replicated, replicated

from .environments import Environment, here, made

pytestmark = pytest.mark.long

# It asks again, because Celery 5.4 ignores `result_backend_always_retry` (docs/delivery.md), and because a busy machine
# may need longer for a new primary than a sender tries.
PATIENT = (
    LOOK
    + """
import time
from celery import exceptions as celery
from kombu import exceptions as kombu
from redis import exceptions as redis
from shop import add, app

def result():
    end = time.monotonic() + 60
    while True:
        try:
            return look(add.delay(2, 3), {timeout})
        except ({errors}):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)

for line in iter(input, ""):
    print(result(), flush=True)
"""
)
AFTER_KILLS = PATIENT.format(timeout=60, errors="redis.ConnectionError, kombu.OperationalError")
# Celery 5.4 loses a result that it can't store.
AFTER_HANGS = PATIENT.format(
    timeout=20,
    errors="redis.ConnectionError, redis.TimeoutError, kombu.OperationalError, celery.TimeoutError",
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Replicated]:
    with replicated(tmp_path / "broker") as servers:
        yield servers
        assert servers.refused() == []


@contextmanager
def asked(
    directory: Path,
    broker: Replicated,
    environment: Environment,
    *options: str,
    script: str,
    promise: str = "at_least_once",
) -> Iterator[tuple[Load, Replicated, Callable[[], None]]]:
    """Yield a worker, its result store, and a function that sends a task and checks its result."""
    python = str(made(environment))
    with (
        replicated(directory / "results", kind="results", like=broker) as results,
        loaded(directory, broker, results=results, python=python, promise=promise) as load,
    ):
        load.start_worker("w1", *options)
        with load.asking(script) as result:

            def check() -> None:
                assert result() == "5\n", load.log("w1")

            check()
            yield load, results, check
        assert results.refused() == []


@pytest.mark.parametrize("environment", here(), ids=str)
def test_tasks_and_results_follow_their_primaries(
    broker: Replicated, tmp_path: Path, environment: Environment
) -> None:
    with asked(tmp_path, broker, environment, script=AFTER_KILLS) as (_, results, check):
        for servers in (results, broker):
            servers.primary().kill()
            check()


def answers(load: Load) -> bool:
    """Return whether the worker answers an operator who connects now."""
    with load.app("operator") as app:
        return bool(app.control.ping(timeout=2))


def freeze(servers: Replicated) -> None:
    """Freeze the primary, and wait until the Sentinels agree on another one."""
    before = servers.primary()
    before.signal(signal.SIGSTOP)
    servers.until(lambda: servers.primary() is not before, "the primary moves")


@pytest.mark.parametrize(
    ("promise", "options"),
    [("inherit", ()), ("at_least_once", ("-P", "gevent"))],
    ids=["stock-prefork", "atomic-gevent"],
)
@pytest.mark.parametrize("environment", here(), ids=str)
def test_idle_processes_follow_when_a_primary_hangs(
    broker: Replicated,
    tmp_path: Path,
    environment: Environment,
    promise: str,
    options: tuple[str, ...],
) -> None:
    """Unlike one that is killed, it closes no connection, and idle processes send nothing on theirs."""
    idle = asked(tmp_path, broker, environment, *options, script=AFTER_HANGS, promise=promise)
    with idle as (load, results, check):
        for servers in (results, broker):
            freeze(servers)
            check()
        broker.until(lambda: answers(load), "the worker answers")
